"""Embed images, reduce latents to a plane, and build paths through the latent space.

N images, L latent dimensions, S steps.  These functions return latents; generation.py decodes them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecli import philox
from vaecli.data.dataset import Images
from vaecli.data.labels import of_images
from vaecli.data.pixels import as_float
from vaecli.errors import DataError
from vaecli.evaluation.generation import Runner, batch_size
from vaecli.model.numpy_prior import Prior, kl_to_normal, quiet
from vaecli.system import extras
from vaecli.system.threads import in_order

Path = Literal["spherical", "linear"]
Floats = NDArray[np.float32]
REACH = 3.0
"""A traversal goes from -3 to 3 standard deviations of the prior."""
EXACT = 1500
"""Images or latents up to which principal components come from all their products."""
OVERSAMPLED, POWER_ITERATIONS = 8, 8
"""Of the iteration that finds them among more."""
UMAP_NEIGHBOURS = 15
"""Its own default."""
ACTIVE_VARIANCE = 0.01
"""A latent is active where Var_x[mean(x)] exceeds this (Burda et al. 2016, section 5)."""


class Embedding(NamedTuple):
    """The posteriors q(z|x) of N images.

    Attributes:
        mean: (N, L).
        log_variance: (N, L).
    """

    mean: Floats
    log_variance: Floats


@dataclass(frozen=True)
class Dimensions:
    """KL and activity of each latent dimension.

    Attributes:
        kl: KL(q(z|x) || p(z)) averaged over images, L numbers in nats.
        active: whether Var_x[mean(x)] exceeds 0.01 (Burda et al. 2016); else it has collapsed.
    """

    kl: tuple[float, ...]
    active: tuple[bool, ...]

    @classmethod
    def of(cls, means: NDArray[np.floating[Any]], kl: Sequence[float]) -> Dimensions:
        """The dimensions of a model.

        Args:
            means: (N, L), of q(z|x).
            kl: L numbers, averaged over the same images.
        """
        variance = means.astype(np.float64).var(0)
        return cls(tuple(kl), tuple((variance > ACTIVE_VARIANCE).tolist()))

    @property
    def by_kl(self) -> list[int]:
        """Dimension numbers by falling KL."""
        return sorted(range(len(self.kl)), key=lambda index: -self.kl[index])


class Plane(NamedTuple):
    """Latents reduced to two dimensions, or one.

    Attributes:
        points: (N, 2), or (N, 1) where L is 1.
        names: what each axis is, such as `z0` or `PC 1 (12 % of variance)`.
        title: how the points were computed.
    """

    points: Floats
    names: tuple[str, ...]
    title: str


def embed(
    runner: Runner,
    images: Images,
    redraw_seed: int | None = None,
    draw_seed: int | None = None,
) -> Embedding:
    """Encode images.

    Args:
        runner: the model.
        images: of the model's shape.
        redraw_seed: draw each pixel black or white first, with its grey level's probability, as a
            model trained with dynamic binarization saw it.
        draw_seed: draw the latents of a grid by the noise "aggregate-posterior", each group given
            those above it; None takes their means.  It changes nothing for other architectures.
    """
    latent_dim, size = runner.config.latents, batch_size(runner.config)
    labels = of_images(runner.config, images)
    found = Embedding(*(np.empty((len(images), latent_dim), np.float32) for _ in range(2)))

    def work(start: int) -> tuple[Floats, Floats]:
        batch = next(images[start : start + size].parts())
        if redraw_seed is not None:
            batch = philox.binarize(batch, start, seed=redraw_seed, purpose="aggregate-posterior")
        noise = None
        if draw_seed is not None:
            noise = philox.normal(
                latent_dim, start, start + len(batch), seed=draw_seed, purpose="aggregate-posterior"
            )
        given = None if labels is None else labels[start : start + size]
        return runner.encode(as_float(batch), noise, given)

    for start, parts in in_order(work, range(0, len(images), size), runner.workers):
        for whole, part in zip(found, parts, strict=True):
            whole[start : start + size] = part
    return found


@quiet()
def dimensions(embedding: Embedding, prior: Prior) -> Dimensions:
    """KL and activity of each latent dimension over embedded images, in the prior's scale there."""
    centre, scale = prior.moments
    mean = (embedding.mean - centre) / scale
    kl = kl_to_normal(mean, embedding.log_variance - 2 * np.log(scale)).mean(0, dtype=np.float64)
    return Dimensions.of(mean, kl.tolist())


def plane(mean: Floats) -> Plane:
    """Reduce latents (N, L) to two dimensions: unchanged for L up to 2, else by PCA."""
    dimension = mean.shape[1]
    if dimension <= 2:
        names = tuple(f"z{index}" for index in range(dimension))
        return Plane(mean, names, "the latent space itself")
    points, shares, _ = principal_components(mean, 2)
    names = tuple(
        f"PC {number} ({100 * share:.0f} % of variance)"
        for number, share in enumerate(shares.tolist(), start=1)
    )
    return Plane(points.astype(np.float32), names, f"PCA of {dimension} latents")


def umap_plane(mean: Floats, *, seed: int) -> Plane:
    """Reduce latents (N, L) to two dimensions that keep neighbours together.

    Source: McInnes et al. 2018, UMAP, https://arxiv.org/abs/1802.03426

    Raises:
        EnvironmentFailure: umap-learn is not installed.
        DataError: there are too few images for its 15 neighbours.
    """
    extras.require("umap", "--projection umap")
    if len(mean) <= UMAP_NEIGHBOURS:
        raise DataError(
            f"--projection umap: it needs more than {UMAP_NEIGHBOURS} images, not {len(mean)}",
            "Use --projection pca.",
        )
    from umap import UMAP

    state = philox.derive_seed(seed, "umap") % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of the one thread that a seed means
        points = UMAP(n_neighbors=UMAP_NEIGHBOURS, random_state=state).fit_transform(mean)
    title = f"UMAP of {mean.shape[1]} latents, axes without a unit"
    return Plane(np.asarray(points, np.float32), ("UMAP 1", "UMAP 2"), title)


def principal_components(
    values: NDArray[np.floating[Any]], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Project (N, L) on its first principal components.

    Returns:
        Points (N, count), the share of the total variance of each component, (count,), and their
        directions from the mean of `values` as columns, (L, count).
        The largest loading of a component is positive, so that its sign is not arbitrary.
    """
    centred = values.astype(np.float64)
    centred -= centred.mean(0)
    images, dimension = centred.shape
    if min(images, dimension) > EXACT:
        directions = _leading(centred, count)
    elif dimension <= images:
        directions = np.linalg.eigh(centred.T @ centred)[1][:, : -count - 1 : -1]
    else:  # the products of images have the same spectrum, and there are fewer of them
        scores = np.linalg.eigh(centred @ centred.T)[1][:, : -count - 1 : -1]
        missing = min(count, dimension) - scores.shape[1]
        directions = np.linalg.qr(centred.T @ np.pad(scores, ((0, 0), (0, missing))))[0]
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    points = centred @ directions
    total = max(np.einsum("ij,ij->", centred, centred), np.finfo(np.float64).tiny)
    return points, np.einsum("ij,ij->j", points, points) / total, directions


def _leading(centred: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Directions (L, count) of most variance of (N, L), by iteration on a subspace.

    All products of the 5,376 latents of a 64x64 grid take half a minute to decompose.

    Source: Halko et al. 2011, algorithms 4.4 and 5.1, https://arxiv.org/abs/0909.4061
    """
    start = philox.normal(count + OVERSAMPLED, 0, centred.shape[1], seed=0, purpose="subspace")
    basis = np.linalg.qr(centred @ start)[0]
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(centred @ (centred.T @ basis))[0]
    return np.linalg.svd(basis.T @ centred, full_matrices=False)[2][:count].T


def interpolate(
    start: Floats, end: Floats, steps: int, path: Path, prior: Prior | None = None
) -> Floats:
    """Latents from `start` to `end`, both included.

    `spherical` is slerp (Shoemake 1985; White 2016, arXiv:1609.04468): it turns at a constant
    angle per step and keeps to lengths that the prior makes likely, where the straight line
    passes nearer to the origin than nearly every sample.  Where there is no angle between the
    two (they point the same or opposite ways, or one is 0), it is the straight line.

    Args:
        start: (L,).
        end: (L,).
        steps: number of latents S, at least 2.
        path: `spherical` or `linear`.
        prior: another than N(0, I): the sphere is then one of its noise.

    Returns:
        (S, L).
    """
    if prior is not None and path == "spherical":
        ends = prior.to_noise(np.stack([start, end]))
        return prior.from_noise(interpolate(ends[0], ends[1], steps, path)).astype(np.float32)
    t = np.linspace(0, 1, steps)[:, None]
    a, b = start.astype(np.float64), end.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    angle = math.acos(min(1.0, max(-1.0, float(a @ b) / lengths))) if lengths else 0.0
    if path == "linear" or math.sin(angle) < 1e-6:
        return ((1 - t) * a + t * b).astype(np.float32)
    weights = np.sin((1 - t) * angle), np.sin(t * angle)
    return ((weights[0] * a + weights[1] * b) / math.sin(angle)).astype(np.float32)


@quiet()
def traverse(
    centre: Floats, dimensions: list[int], steps: int, moments: tuple[Floats, Floats]
) -> Floats:
    """Move one dimension at a time from -3 to 3 standard deviations, the others at `centre`.

    Args:
        centre: (L,).
        dimensions: which, in the order of the result.
        steps: values of each.
        moments: mean and standard deviation of each latent under the prior, (L,).

    Returns:
        (len(dimensions) * S, L), the steps of one dimension after each other.
    """
    latents = np.tile(centre, (len(dimensions), steps, 1))
    for row, dimension in enumerate(dimensions):
        reach = np.linspace(-REACH, REACH, steps)
        latents[row, :, dimension] = moments[0][dimension] + moments[1][dimension] * reach
    return latents.reshape(-1, len(centre))


def quantiles(side: int) -> Floats:
    """Normal quantiles at (i + 1/2) / side, (side,): equal shares of the prior lie between."""
    return philox.quantile((np.arange(side) + 0.5) / side).astype(np.float32)


@quiet()
def manifold(
    moments: tuple[Floats, Floats], horizontal: int, vertical: int | None, side: int
) -> Floats:
    """A grid of latents through two dimensions at normal quantiles, the others at their mean.

    Args:
        moments: mean and standard deviation of each latent under the prior, (L,).
        horizontal: the dimension that grows to the right.
        vertical: the one that grows upwards; None (L is 1) for a single row.
        side: latents along each.

    Returns:
        (side * side, L), or (side, L), the top row first.
    """
    values, (mean, std) = quantiles(side), moments
    latents = np.tile(mean, (1 if vertical is None else side, side, 1)).astype(np.float32)
    latents[..., horizontal] = mean[horizontal] + std[horizontal] * values
    if vertical is not None:
        latents[..., vertical] = mean[vertical] + std[vertical] * values[::-1, None]
    return latents.reshape(-1, len(mean))
