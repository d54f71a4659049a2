"""Priors p(z) in numpy: log density, draws, and the scale of each latent.

`prior.py` has their log densities in torch, which also trains; a test compares the two.
Axes: N latents, L latent dimension, J components.  Everything is in nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecli import philox

Floats = NDArray[Any]
PriorName = Literal["normal", "gmm", "mixture", "flow"]

BLOCK = 1 << 20
"""Numbers computed at once, of each component for each latent."""


def quiet() -> np.errstate:
    """For functions of numbers that a file may make huge: infinity and NaN are passed on.

    Example:
        >>> with quiet():
        ...     np.exp(np.array([1e4]))
        array([inf])
    """
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


class Prior(Protocol):
    """A density of latents (N, L) that can be drawn from.

    Example:
        >>> prior: Prior = Normal(3)
        >>> prior.draw(2, seed=0).shape
        (2, 3)
    """

    name: ClassVar[PriorName]
    """What results call it."""

    def log_prob(self, latents: Floats) -> Floats:
        """Log p(z) of latents (N, L), (N,) float64."""
        ...

    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """Draw latents (count, L) float32; the first draws do not depend on `count`.

        The noise is multiplied by the temperature: 0 draws the most typical latents only.
        """
        ...

    @property
    def moments(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each latent, (L,) float32: its place and its scale."""
        ...

    def to_noise(self, latents: Floats) -> Floats:
        """Latents (N, L) as coordinates in which the prior is N(0, I), or has its moments."""
        ...

    def from_noise(self, noise: Floats) -> Floats:
        """The inverse of `to_noise`, (N, L)."""
        ...


@dataclass(frozen=True)
class Normal:
    """The prior N(0, I) of `latents` dimensions.

    ::

        log p(z) = -1/2 sum over L of (z^2 + log 2 pi)

    Source: Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114

    Example:
        >>> Normal(2).log_prob(np.zeros((1, 2))).round(4).tolist()
        [-1.8379]
    """

    latents: int
    name: ClassVar[PriorName] = "normal"

    def log_prob(self, latents: Floats) -> Floats:
        """As `Prior.log_prob`."""
        square: Floats = np.square(latents, dtype=np.float64).sum(1)
        return -0.5 * (square + self.latents * math.log(2 * math.pi))

    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """As `Prior.draw`."""
        noise = philox.normal(self.latents, 0, count, seed=seed, purpose="samples")
        return np.float32(temperature) * noise

    @property
    def moments(self) -> tuple[Floats, Floats]:
        """As `Prior.moments`: 0 and 1."""
        return np.zeros(self.latents, np.float32), np.ones(self.latents, np.float32)

    def to_noise(self, latents: Floats) -> Floats:
        """As `Prior.to_noise`: they are that."""
        return latents

    def from_noise(self, noise: Floats) -> Floats:
        """As `Prior.from_noise`."""
        return noise


class Standardised(ABC):
    """Coordinates of a prior without a map of its own: in its standard deviations, by latent.

    Example:
        >>> wide = Mixture(np.ones(1), np.ones((1, 1)), np.full((1, 1, 1), 2.0))
        >>> wide.to_noise(np.array([[5.0]])).tolist()
        [[2.0]]
    """

    @property
    @abstractmethod
    def moments(self) -> tuple[Floats, Floats]:
        """As `Prior.moments`."""

    def to_noise(self, latents: Floats) -> Floats:
        """As `Prior.to_noise`."""
        mean, std = self.moments
        with quiet():
            noise: Floats = (latents - mean) / std
        return noise

    def from_noise(self, noise: Floats) -> Floats:
        """As `Prior.from_noise`."""
        mean, std = self.moments
        with quiet():
            latents: Floats = mean + std * noise
        return latents


@dataclass(frozen=True)
class Mixture(Standardised):
    """A mixture of J Gaussians with full covariances, fitted to where images are encoded.

    Its density is::

        p(z) = sum over j of weights[j] N(z; means[j], factors[j] factors[j]^T)

    Source: Ghosh et al. 2020, section 4, https://arxiv.org/abs/1903.12436

    Attributes:
        weights: (J,), summing to 1.
        means: (J, L).
        factors: (J, L, L), lower Cholesky factors of the covariances.

    Example:
        >>> mixture = Mixture(
        ...     weights=np.array([0.5, 0.5]),
        ...     means=np.array([[-3.0], [3.0]]),
        ...     factors=np.ones((2, 1, 1)),
        ... )
        >>> sorted(set(mixture.draw(20, seed=0, temperature=0).flatten().tolist()))
        [-3.0, 3.0]
        >>> mixture.log_prob(np.array([[3.0]])).round(4).tolist()
        [-1.6121]
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    factors: NDArray[np.float64]
    name: ClassVar[PriorName] = "gmm"

    @cached_property
    def whitening(self) -> tuple[Floats, Floats, Floats]:
        """What gives log p(z), as arrays A (J L, L), b (J L,) and c (J,).

        With e = A z - b, of which each component has L numbers::

            log p(z) = log sum over j of exp(c_j - 1/2 sum of e_j^2)
        """
        count, latent_dim = self.means.shape
        inverse = np.linalg.inv(self.factors)
        centres = np.einsum("jab,jb->ja", inverse, self.means)
        log_volume = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(1)
        constant = np.log(self.weights) - log_volume - 0.5 * latent_dim * math.log(2 * math.pi)
        return inverse.reshape(count * latent_dim, latent_dim), centres.reshape(-1), constant

    def log_prob(self, latents: Floats) -> Floats:
        """As `Prior.log_prob`."""
        matrix, centres, constant = self.whitening
        found, rows = np.empty(len(latents)), max(1, BLOCK // len(centres))
        for start in range(0, len(latents), rows):
            noise = latents[start : start + rows].astype(np.float64) @ matrix.T - centres
            each = constant - 0.5 * np.square(noise).reshape(-1, *self.means.shape).sum(2)
            found[start : start + rows] = np.logaddexp.reduce(each, 1)
        return found

    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """As `Prior.draw`.

        A component j is drawn from the weights and e from N(0, I), then, at temperature t::

            z = means[j] + t factors[j] e
        """
        noise = philox.normal(self.means.shape[1], 0, count, seed=seed, purpose="mixture")
        uniform = philox.uniform(1, 0, count, seed=seed, purpose="mixture components")[:, 0]
        chosen = np.searchsorted(np.cumsum(self.weights)[:-1], uniform, side="right")
        spread = np.empty(noise.shape)
        for component in np.unique(chosen):  # a factor for each draw would be of any size
            rows = chosen == component
            spread[rows] = np.einsum("ij,nj->ni", self.factors[component], noise[rows])
        drawn: Floats = (self.means[chosen] + temperature * spread).astype(np.float32)
        return drawn

    @property
    def moments(self) -> tuple[Floats, Floats]:
        """As `Prior.moments`."""
        return moments_of(self.weights, self.means, np.square(self.factors).sum(2))


def moments_of(weights: Floats, means: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each latent of a mixture.

    Example:
        >>> moments_of(np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.zeros((2, 1)))
        (array([0.], dtype=float32), array([1.], dtype=float32))
    """
    mean = weights @ means
    variance = weights @ (variances + np.square(means - mean))
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


@quiet()
def kl_to_normal(mean: Floats, log_variance: Floats) -> Floats:
    """KL divergence from q(z|x) to N(0, I) for each latent, nats; see `prior.kl_to_prior`.

    Example:
        >>> kl_to_normal(np.array([0.0, 2.0]), np.zeros(2)).tolist()
        [0.0, 2.0]
    """
    return np.float32(0.5) * (np.square(mean) + np.exp(log_variance) - 1 - log_variance)


def rate(prior: Prior, mean: Floats, log_variance: Floats, latents: Floats) -> Floats:
    """KL(q(z|x) || p(z)) of each image, exact for N(0, I), else by Monte Carlo at its one latent.

    ::

        rate = KL(q(z|x) || N(0, I)) + log N(z; 0, I) - log p(z)

    Its mean over z from q(z|x) is the KL, whatever p.  The closed form carries most of it, so that
    little is left to chance.

    Args:
        prior: p.
        mean: of q(z|x), (N, L).
        log_variance: (N, L).
        latents: z, drawn from q(z|x), (N, L).

    Returns:
        (N,) nats.

    Example:
        >>> zero = np.zeros((1, 2))
        >>> rate(Normal(2), zero + 1, zero, zero).tolist()
        [1.0]
    """
    found: Floats = kl_to_normal(mean, log_variance).sum(1, dtype=np.float64)
    if isinstance(prior, Normal):
        return found
    return found + Normal(latents.shape[1]).log_prob(latents) - prior.log_prob(latents)
