"""Priors that are learned with a model, in numpy; `prior.py` trains them, and a test compares.

Axes: N latents, L latent dimension, J components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vaecli import philox
from vaecli.config import ModelConfig
from vaecli.model import network
from vaecli.model.numpy_prior import (
    BLOCK,
    Floats,
    Normal,
    Prior,
    PriorName,
    Standardised,
    moments_of,
    quiet,
)
from vaecli.model.numpy_rows import product

MOMENT_DRAWS = 10_000
MOST_LOG_SCALE = 2.0
"""Log scale of a coupling, at most: with no bound, one step of training may send it far."""


@dataclass(frozen=True)
class DiagonalMixture(Standardised):
    """A mixture of J Gaussians with diagonal covariances, learned with the model.

    ::

        p(z) = sum over j of weights[j] N(z; means[j], diag(scales[j]^2))

    Attributes:
        weights: (J,), summing to 1.
        means: (J, L).
        scales: (J, L), standard deviations.

    Example:
        >>> one = DiagonalMixture(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))
        >>> one.log_prob(np.zeros((1, 2))).round(4).tolist()
        [-1.8379]
    """

    weights: Floats
    means: Floats
    scales: Floats
    name: ClassVar[PriorName] = "mixture"

    @quiet()
    def log_prob(self, latents: Floats) -> Floats:
        """As `Prior.log_prob`."""
        constant = np.log(self.weights) - np.log(self.scales).sum(1)
        constant = constant - 0.5 * latents.shape[1] * math.log(2 * math.pi)
        found, rows = np.empty(len(latents)), max(1, BLOCK // self.means.size)
        for start in range(0, len(latents), rows):
            noise = latents[start : start + rows, None].astype(np.float64) - self.means
            each = constant - 0.5 * np.square(noise / self.scales).sum(2)
            found[start : start + rows] = np.logaddexp.reduce(each, 1)
        return found

    @quiet()
    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """As `Prior.draw`: a component by the weights, then its mean and scaled noise."""
        noise = philox.normal(self.means.shape[1], 0, count, seed=seed, purpose="samples")
        uniform = philox.uniform(1, 0, count, seed=seed, purpose="mixture components")[:, 0]
        chosen = np.searchsorted(np.cumsum(self.weights)[:-1], uniform, side="right")
        drawn = self.means[chosen] + temperature * self.scales[chosen] * noise
        return drawn.astype(np.float32)

    @property
    @quiet()
    def moments(self) -> tuple[Floats, Floats]:
        """As `Prior.moments`."""
        return moments_of(self.weights, self.means, np.square(self.scales))


@dataclass(frozen=True)
class Flow:
    """N(0, I) seen through couplings, learned with the model.

    Each coupling keeps half of the latents, a, and changes the others, b, by them, with the log
    scale s(a) and the shift t(a) that a small network gives::

        e_b = b exp(s) + t
        log p(z) = log N(e; 0, I) + sum of all s

    Source: Dinh, Sohl-Dickstein & Bengio 2017, equations 6 to 8, https://arxiv.org/abs/1605.08803

    Attributes:
        layers: of each coupling from z to e: weight and bias of its two linear layers.
        latents: L.

    Example:
        >>> layers = [np.zeros((3, 1)), np.zeros(3), np.zeros((2, 3)), np.array([math.log(2), 0])]
        >>> doubling = Flow((tuple(layers),), 2)
        >>> doubling.to_noise(np.array([[1.0, 3.0]])).round(4).tolist()
        [[1.9477, 3.0]]
    """

    layers: tuple[tuple[Floats, ...], ...]
    latents: int
    name: ClassVar[PriorName] = "flow"

    @quiet()
    def log_prob(self, latents: Floats) -> Floats:
        """As `Prior.log_prob`."""
        noise, volume = self._forward(latents)
        found: Floats = Normal(self.latents).log_prob(noise) + volume
        return found

    @quiet()
    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """As `Prior.draw`: noise through the couplings, the other way round."""
        normal = Normal(self.latents)
        return self.from_noise(normal.draw(count, seed=seed, temperature=temperature))

    @property
    @quiet()
    def moments(self) -> tuple[Floats, Floats]:
        """As `Prior.moments`, of many draws."""
        draws = self.draw(MOMENT_DRAWS, seed=0).astype(np.float64)
        return draws.mean(0).astype(np.float32), draws.std(0).astype(np.float32)

    def to_noise(self, latents: Floats) -> Floats:
        """As `Prior.to_noise`."""
        return self._forward(latents)[0]

    @quiet()
    def from_noise(self, noise: Floats) -> Floats:
        """As `Prior.from_noise`."""
        latents = np.array(noise)
        places = list(zip(network.coupled(self.latents), self.layers, strict=False))
        for (kept, changed), layers in reversed(places):
            scale, shift = _coupling(latents[:, kept], layers)
            latents[:, changed] = (latents[:, changed] - shift) * np.exp(-scale)
        return latents

    @quiet()
    def _forward(self, latents: Floats) -> tuple[Floats, Floats]:
        noise, volume = np.array(latents), np.zeros(len(latents))
        for (kept, changed), layers in zip(
            network.coupled(self.latents), self.layers, strict=False
        ):
            scale, shift = _coupling(noise[:, kept], layers)
            noise[:, changed] = noise[:, changed] * np.exp(scale) + shift
            volume += scale.sum(1, dtype=np.float64)
        return noise, volume


def _coupling(kept: Floats, layers: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """Log scale and shift, as `prior.Coupling` gives them."""
    hidden = np.maximum(product(kept, layers[0].T) + layers[1], 0)
    scale, shift = np.split(product(hidden, layers[2].T) + layers[3], 2, axis=1)
    return MOST_LOG_SCALE * np.tanh(scale / MOST_LOG_SCALE), shift


@quiet()
def of(config: ModelConfig, weights: Mapping[str, Floats]) -> Prior:
    """The prior of a model.

    Example:
        >>> of(ModelConfig(image_shape=(1, 28, 28)), {})
        Normal(latents=20)
    """
    if config.prior == "mixture":
        logits = weights["prior.logits"].astype(np.float64)
        shares = np.exp(logits - np.logaddexp.reduce(logits))
        scales = np.exp(weights["prior.log_scales"].astype(np.float64))
        return DiagonalMixture(shares, weights["prior.means"].astype(np.float64), scales)
    if config.prior == "flow":
        names = [
            [
                f"prior.{place}.{part}"
                for part in ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
            ]
            for place in range(network.FLOW_COUPLINGS)
        ]
        return Flow(tuple(tuple(weights[name] for name in each) for each in names), config.latents)
    return Normal(config.latents)
