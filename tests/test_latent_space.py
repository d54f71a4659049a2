from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

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
from vaecli.runs.load import load_model


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_dimensions_that_collapsed() -> None:
    means = normal(400, 3)
    means[:, 1] *= 0.05  # variance 0.0025: collapsed by Burda's measure
    means[:, 2] = means[:, 2] * 0.11 + 7  # 0.0121, wherever its mean lies
    evaluation = Evaluation(torch.zeros(400), torch.zeros(400), means, (0.5, 0.0, 2.0))
    dimensions = Dimensions.of(evaluation)
    assert dimensions.active == (True, False, True)
    assert sum(dimensions.active) == evaluation.active_units
    assert dimensions.by_kl == [2, 0, 1]


def test_embedding_is_the_encoder_whatever_the_batch(trained: object) -> None:
    model = load_model(str(trained)).model
    pixels = torch.randint(0, 256, (1500, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    embedding = embed(model, pixels.to(torch.uint8))
    mean, log_variance = model.encoder(pixels[[0, 1499]].float() / 255)
    torch.testing.assert_close(embedding.mean[[0, 1499]], mean)
    torch.testing.assert_close(embedding.log_variance[[0, 1499]], log_variance)


def test_principal_components_are_those_of_the_svd() -> None:
    values = normal(200, 6) @ torch.diag(torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1])) + 5
    points, shares, directions = principal_components(values, 2)
    centred = values.double().numpy() - values.double().numpy().mean(0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(points.abs().numpy(), np.abs(left[:, :2] * scales[:2]), atol=1e-4)
    np.testing.assert_allclose(shares.numpy(), (scales**2 / (scales**2).sum())[:2], rtol=1e-6)
    np.testing.assert_allclose(points.numpy(), centred @ directions.numpy(), atol=1e-4)
    np.testing.assert_allclose((directions.T @ directions).numpy(), np.eye(2), atol=1e-12)
    flipped, _, _ = principal_components(-values, 2)
    torch.testing.assert_close(flipped, -points)  # the sign comes from the axes, not from chance


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
    torch.testing.assert_close(walk[0], a)
    torch.testing.assert_close(walk[-1], b)
    backwards = interpolate(b, a, 9, path)  # type: ignore[arg-type]
    torch.testing.assert_close(walk, backwards.flip(0))


def test_spherical_turns_evenly_and_keeps_the_length() -> None:
    a, b = torch.nn.functional.normalize(normal(2, 20), dim=1) * 4
    walk = interpolate(a, b, 7, "spherical").double()
    torch.testing.assert_close(walk.norm(dim=1), torch.full((7,), 4.0).double(), atol=1e-5, rtol=0)
    cosines = (walk[1:] * walk[:-1]).sum(1) / 16
    whole = math.acos(float(torch.dot(a.double(), b.double())) / 16)
    torch.testing.assert_close(
        cosines.acos(), torch.full((6,), whole / 6).double(), atol=1e-4, rtol=0
    )
    line = interpolate(a, b, 7, "linear")
    assert float(line[3].norm()) < 3.5  # which is what spherical avoids


def test_where_no_angle_is_defined_the_walk_is_a_line() -> None:
    a = normal(4)
    for b in (-a, 2 * a, torch.zeros(4)):
        walk = interpolate(a, b, 5, "spherical")
        torch.testing.assert_close(walk, torch.lerp(a, b, torch.linspace(0, 1, 5)[:, None]))


def test_traversal_moves_one_dimension_at_a_time() -> None:
    centre = normal(4)
    rows = traverse(centre, [2, 0], 7).view(2, 7, 4)
    for row, dimension in zip(rows, (2, 0), strict=True):
        assert row[:, dimension].tolist() == [-3, -2, -1, 0, 1, 2, 3]
        others = [index for index in range(4) if index != dimension]
        assert (row[:, others] == centre[others]).all()


def test_manifold_is_spaced_by_the_prior() -> None:
    expected = [NormalDist().inv_cdf((index + 0.5) / 6) for index in range(6)]
    np.testing.assert_allclose(quantiles(6), expected, rtol=1e-5)
    grid = manifold(5, 3, 1, 6).view(6, 6, 5)
    np.testing.assert_allclose(grid[0, :, 3], expected, rtol=1e-5)
    np.testing.assert_allclose(grid[:, 0, 1], expected[::-1], rtol=1e-5)  # up is up
    assert (grid[..., [0, 2, 4]] == 0).all()
    assert manifold(1, 0, None, 6).shape == (6, 1)
