"""Embed images, reduce latents to a plane, and build paths through the latent space.

N images, L latent dimensions, S steps.  These functions return latents; generation.py decodes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vaecli.data.mapped import Mapped
from vaecli.evaluation.evaluate import ACTIVE_VARIANCE, BATCH_SIZE, Evaluation, floats
from vaecli.model.precision import inference
from vaecli.model.vae import VAE
from vaecli.noise import LevelNoise

Path = Literal["spherical", "linear"]
REACH = 3.0
"""A traversal goes from -3 to 3 standard deviations of the prior."""


class Embedding(NamedTuple):
    """The posteriors q(z|x) of N images.

    Attributes:
        mean: (N, L).
        log_variance: (N, L).
    """

    mean: Tensor
    log_variance: Tensor


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
    def of(cls, evaluation: Evaluation) -> Dimensions:
        """The dimensions of an evaluated model."""
        variance = evaluation.means.double().var(0, correction=0)
        return cls(evaluation.kl_per_dim, tuple((variance > ACTIVE_VARIANCE).tolist()))

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

    points: Tensor
    names: tuple[str, ...]
    title: str


@inference()
def embed(model: VAE, pixels: Tensor | Mapped, levels: LevelNoise | None = None) -> Embedding:
    """Encode images (N, C, H, W) uint8, binarized first if `levels` is given."""
    device = model.device
    parts = [model.encoder(x) for _, x in floats(pixels, BATCH_SIZE, device, levels)]
    means, log_variances = zip(*parts, strict=True)
    return Embedding(torch.cat(means), torch.cat(log_variances))


def plane(mean: Tensor) -> Plane:
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
    return Plane(points, names, f"PCA of {dimension} latents")


def principal_components(values: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project (N, L) on its first principal components.

    Returns:
        Points (N, count), the share of the total variance of each component, (count,), and their
        directions from the mean of `values` as columns, (L, count), both in float64.
        The largest loading of a component is positive, so that its sign is not arbitrary.
    """
    centred = values.double() - values.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)[:, :count]
    largest = directions.abs().argmax(0)
    directions = directions * directions[largest, torch.arange(count)].sign()
    shares = variances[:count] / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return (centred @ directions).to(values.dtype), shares, directions


def interpolate(start: Tensor, end: Tensor, steps: int, path: Path) -> Tensor:
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

    Returns:
        (S, L).
    """
    t = torch.linspace(0, 1, steps, dtype=torch.float64, device=start.device)[:, None]
    a, b = start.double(), end.double()
    lengths = a.norm() * b.norm()
    angle = torch.arccos((torch.dot(a, b) / lengths).clamp(-1, 1))
    # the angle is NaN where an end is the origin
    if path == "linear" or not float(angle.sin()) >= 1e-6:
        return ((1 - t) * a + t * b).to(start.dtype)
    weights = torch.sin((1 - t) * angle), torch.sin(t * angle)
    return ((weights[0] * a + weights[1] * b) / torch.sin(angle)).to(start.dtype)


def traverse(centre: Tensor, dimensions: list[int], steps: int) -> Tensor:
    """Move one dimension at a time from -3 to 3, the others staying at `centre`.

    Args:
        centre: (L,).
        dimensions: which, in the order of the result.
        steps: values of each.

    Returns:
        (len(dimensions) * S, L), the steps of one dimension after each other.
    """
    latents = centre.repeat(len(dimensions), steps, 1)
    values = torch.linspace(-REACH, REACH, steps, dtype=centre.dtype, device=centre.device)
    for row, dimension in enumerate(dimensions):
        latents[row, :, dimension] = values
    return latents.flatten(0, 1)


def quantiles(side: int) -> Tensor:
    """Normal quantiles at (i + 1/2) / side, (side,): equal shares of the prior lie between."""
    places = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    values: Tensor = torch.special.ndtri(places)
    return values.float()


def manifold(latent_dim: int, horizontal: int, vertical: int | None, side: int) -> Tensor:
    """A grid of latents through two dimensions at normal quantiles, the others being 0.

    Args:
        latent_dim: L.
        horizontal: the dimension that grows to the right.
        vertical: the one that grows upwards; None (L is 1) for a single row.
        side: latents along each.

    Returns:
        (side * side, L), or (side, L), the top row first.
    """
    values = quantiles(side)
    rows = 1 if vertical is None else side
    latents = torch.zeros(rows, side, latent_dim)
    latents[..., horizontal] = values
    if vertical is not None:
        latents[..., vertical] = values.flip(0)[:, None]
    return latents.flatten(0, 1)
