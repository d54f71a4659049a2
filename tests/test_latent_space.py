from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vaecli.data.dataset import Images
from vaecli.evaluation.evaluate import Evaluation
from vaecli.evaluation.latent_space import (
    Dimensions,
    embed,
    interpolate,
    manifold,
    plane,
    principal_components,
    quantiles,
    traverse,
)
from vaecli.model.numpy_prior import Normal
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.model.vae import TorchRunner
from vaecli.runs.load import load_model


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_dimensions_that_collapsed() -> None:
    means = normal(400, 3)
    means[:, 1] *= 0.05  # variance 0.0025: collapsed by Burda's measure
    means[:, 2] = means[:, 2] * 0.11 + 7  # 0.0121, wherever its mean lies
    kl, embedding = (0.5, 0.0, 2.0), torch.from_numpy(means)
    evaluation = Evaluation(torch.zeros(400), torch.zeros(400), embedding, kl)
    dimensions = Dimensions.of(means, kl)
    assert dimensions.active == (True, False, True)
    assert sum(dimensions.active) == evaluation.active_units
    assert dimensions.by_kl == [2, 0, 1]


def test_embedding_is_the_encoder_whatever_the_batch(trained: object) -> None:
    model = load_model(str(trained)).model
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1, 28, 28), np.uint8)
    with torch.no_grad():
        expected = model.encoder(torch.from_numpy(pixels[[0, 1499]]) / 255)
    for runner in (TorchRunner(model), NumpyVAE(model.config, model.weights())):
        for found, wanted in zip(embed(runner, Images(pixels)), expected, strict=True):
            np.testing.assert_allclose(found[[0, 1499]], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "exact"), [(200, 1500), (200, 4), (5, 1500)], ids=["many", "iterated", "few"]
)
def test_principal_components_are_those_of_the_svd(
    images: int, exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaecli.evaluation.latent_space.EXACT", exact)
    values = normal(images, 6) * np.array([3.0, 2, 1, 0.5, 0.2, 0.1], np.float32) + 5
    points, shares, directions = principal_components(values, 2)
    centred = values.astype(np.float64) - values.astype(np.float64).mean(0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * scales[:2]), atol=1e-4)
    np.testing.assert_allclose(shares, (scales**2 / (scales**2).sum())[:2], rtol=1e-6)
    np.testing.assert_allclose(points, centred @ directions, atol=1e-4)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-12)
    flipped, _, _ = principal_components(-values, 2)
    np.testing.assert_allclose(
        flipped, -points, atol=1e-5
    )  # the sign comes from the axes, not from chance


def test_one_image_lies_in_the_middle_of_its_plane() -> None:
    points, shares, directions = principal_components(normal(1, 6), 2)
    assert not points.any()
    assert not shares.any()
    assert (points.shape, directions.shape) == ((1, 2), (6, 2))


def test_the_plane_of_few_latents_is_themselves() -> None:
    for dimension in (1, 2):
        mean = normal(5, dimension)
        seen = plane(mean)
        assert seen.points is mean
        assert seen.names == ("z0", "z1")[:dimension]
    seen = plane(normal(50, 3))
    assert seen.points.shape == (50, 2)
    assert seen.names[0].startswith("PC 1 (")
    assert "PCA of 3" in seen.title


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_interpolation_keeps_its_ends(path: str) -> None:
    a, b = normal(2, 20)
    walk = interpolate(a, b, 9, path)  # type: ignore[arg-type]
    np.testing.assert_allclose(walk[0], a, rtol=1e-6)
    np.testing.assert_allclose(walk[-1], b, rtol=1e-6)
    backwards = interpolate(b, a, 9, path)  # type: ignore[arg-type]
    np.testing.assert_allclose(walk, backwards[::-1], atol=1e-6)


def test_spherical_turns_evenly_and_keeps_the_length() -> None:
    ends = normal(2, 20)
    a, b = 4 * ends / np.linalg.norm(ends, axis=1, keepdims=True)
    walk = interpolate(a, b, 7, "spherical").astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), 4, atol=1e-5)
    cosines = (walk[1:] * walk[:-1]).sum(1) / 16
    whole = math.acos(float(a.astype(np.float64) @ b) / 16)
    np.testing.assert_allclose(np.arccos(cosines), whole / 6, atol=1e-4)
    line = interpolate(a, b, 7, "linear")
    assert np.linalg.norm(line[3]) < 3.5  # which is what spherical avoids


def test_where_no_angle_is_defined_the_walk_is_a_line() -> None:
    a = normal(4)
    for b in (-a, 2 * a, np.zeros(4, np.float32)):
        walk = interpolate(a, b, 5, "spherical")
        np.testing.assert_allclose(walk, np.linspace(a, b, 5), atol=1e-6)


def test_traversal_moves_one_dimension_at_a_time() -> None:
    centre = normal(4)
    rows = traverse(centre, [2, 0], 7, Normal(4).moments).reshape(2, 7, 4)
    for row, dimension in zip(rows, (2, 0), strict=True):
        assert row[:, dimension].tolist() == [-3, -2, -1, 0, 1, 2, 3]
        others = [index for index in range(4) if index != dimension]
        assert (row[:, others] == centre[others]).all()


def test_manifold_is_spaced_by_the_prior() -> None:
    expected = [NormalDist().inv_cdf((index + 0.5) / 6) for index in range(6)]
    np.testing.assert_allclose(quantiles(6), expected, rtol=1e-5)
    grid = manifold(Normal(5).moments, 3, 1, 6).reshape(6, 6, 5)
    np.testing.assert_allclose(grid[0, :, 3], expected, rtol=1e-5)
    np.testing.assert_allclose(grid[:, 0, 1], expected[::-1], rtol=1e-5)  # up is up
    assert (grid[..., [0, 2, 4]] == 0).all()
    assert manifold(Normal(1).moments, 0, None, 6).shape == (6, 1)
