"""Fits Gaussians to more latents than images can tell the covariances of: these are shrunk.

Axes: N draws, L latent dimension, J components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecli.model.numpy_prior import Mixture
from vaecli.system.callbacks import Progress
from vaecli.system.threads import in_order

Floats = NDArray[Any]

SPREAD = 1e-4
"""Added to each variance, in those of all draws: no image alone, and no collapsed latent, then
makes a spike."""
SHRINKAGES = 0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0
"""How far towards the common covariance, or independence, is tried."""
COMPONENTS = 4
"""Gaussians that are tried besides one: eight were less dense on held-out latents of a grid."""
MOST_LATENTS = 2048
"""Of more latents there is one Gaussian: four would take 128 MB on the disk, and 800 in memory."""
DRAWS_PER_LATENT = 4
"""Several Gaussians are tried only with this many draws for each latent."""
PASS_SHRINKAGE = 0.2
"""How far covariances are shrunk in the one pass of expectation-maximisation.  More gain little."""
BLOCK = 4096
"""Draws whose products are summed at once."""


def fit(
    fitted: Floats,
    held_out: Floats,
    *,
    workers: int | None,
    progress: Progress,
) -> Mixture:
    """One Gaussian, or a few, whichever is denser where draws were held out.

    Args:
        fitted: standardised draws, (N, L).
        held_out: others.
        workers: threads; None for one on each core.
        progress: told (what, done, total) as it goes.
    """
    progress("fitting the prior", 0, 3)
    one, independence = _gaussian(fitted, held_out)
    best = one
    count, latents = fitted.shape
    if latents <= MOST_LATENTS and count >= DRAWS_PER_LATENT * latents and len(held_out):
        several = _Fitting(fitted, held_out, independence, workers).run(one, progress)
        best = max(one, several, key=lambda mixture: float(mixture.log_prob(held_out).mean()))
    progress("fitting the prior", 3, 3)
    return best


def _gaussian(fitted: Floats, held_out: Floats) -> tuple[Mixture, float]:
    """One Gaussian, whose covariance is shrunk as far as suits the draws that were held out.

    With S the covariance of standardised draws, it is::

        (1 - a) S + a I

    Source: Ledoit & Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4, but for their a.

    Returns:
        It, and a.
    """
    _, mean, covariance = _moments(fitted, np.ones(len(fitted), fitted.dtype))
    variances, axes = np.linalg.eigh(covariance)
    variances = variances.clip(min=0)
    squares = np.square((held_out - mean) @ axes).mean(0) if len(held_out) else np.ones_like(mean)

    def score(share: float) -> float:
        shrunk = (1 - share) * variances + share + SPREAD
        return -float((squares / shrunk + np.log(shrunk)).sum())

    best = max(SHRINKAGES, key=score)
    shrunk = (1 - best) * variances + best + SPREAD
    factor = np.linalg.cholesky((axes * shrunk) @ axes.T)
    return Mixture(np.ones(1), mean[None], factor[None]), best


@dataclass
class _Fitting:
    """Gaussians whose covariances are shrunk towards their common one.

    With S_j the covariance of a component, W the mean of all, weighted by their draws, and b what
    suits one Gaussian, it is::

        (1 - a) S_j + a ((1 - b) W + b I)

    Images differ most in how rough they are, so the draws are first put in groups by their density
    under one Gaussian.
    """

    fitted: Floats
    held_out: Floats
    independence: float
    """b."""
    workers: int | None

    def run(self, one: Mixture, progress: Progress) -> Mixture:
        """The mixture after one pass of expectation-maximisation; a as suits the draws held out."""
        density = self._densities(one, self.fitted)[:, 0]
        bounds = np.quantile(density, np.arange(1, COMPONENTS) / COMPONENTS)
        groups = np.eye(COMPONENTS, dtype=density.dtype)[np.searchsorted(bounds, density)]
        progress("fitting the prior", 1, 3)
        first = self._shrunk(self._moments(groups), PASS_SHRINKAGE)
        progress("fitting the prior", 2, 3)
        moments = self._moments(_shares(self._densities(first, self.fitted))[0])
        tried = (self._shrunk(moments, share) for share in SHRINKAGES if 0 < share < 1)
        return max(tried, key=self._score)

    def _moments(self, shares: Floats) -> list[_Moments]:
        """Of each component, from the shares (N, J) that draws have in it."""

        def work(component: int) -> _Moments:
            return _moments(self.fitted, shares[:, component])

        return [found for _, found in in_order(work, range(shares.shape[1]), self.workers)]

    def _densities(self, mixture: Mixture, draws: Floats) -> Floats:
        """Log density of each component times its weight, (N, J).

        In the type of the draws: in float64, as `Mixture.log_prob` has it, it takes twice as long.
        """
        latents = draws.shape[1]

        def work(component: int) -> Floats:
            factor, mean = mixture.factors[component], mixture.means[component]
            inverse = np.linalg.inv(factor).astype(draws.dtype)
            constant = math.log(mixture.weights[component]) - float(np.log(factor.diagonal()).sum())
            constant -= 0.5 * latents * math.log(2 * math.pi)
            found = np.empty(len(draws), draws.dtype)
            for start in range(0, len(draws), BLOCK):
                noise = (draws[start : start + BLOCK] - mean.astype(draws.dtype)) @ inverse.T
                found[start : start + BLOCK] = constant - 0.5 * np.square(noise).sum(1)
            return found

        components = range(len(mixture.weights))
        return np.stack([found for _, found in in_order(work, components, self.workers)], 1)

    def _shrunk(self, moments: Sequence[_Moments], share: float) -> Mixture:
        totals = np.array([each.total for each in moments])
        common = sum(each.total * each.covariance for each in moments) / totals.sum()
        identity = np.eye(len(common))
        common = (1 - self.independence) * common + self.independence * identity
        factors = [
            np.linalg.cholesky((1 - share) * each.covariance + share * common + SPREAD * identity)
            for each in moments
        ]
        means = np.stack([each.mean for each in moments]).astype(np.float64)
        return Mixture(totals / totals.sum(), means, np.stack(factors))

    def _score(self, mixture: Mixture) -> float:
        return float(_shares(self._densities(mixture, self.held_out))[1].mean())


class _Moments(NamedTuple):
    """Sum of the weights, mean (L,) and covariance (L, L) of a component."""

    total: float
    mean: Floats
    covariance: Floats


def _moments(draws: Floats, weights: Floats) -> _Moments:
    """Of draws (N, L) with weights (N,); float64, or rounding may leave a negative variance."""
    total = float(weights.sum(dtype=np.float64)) + 1e-10  # there may be no draw at all
    mean = (weights @ draws).astype(np.float64) / total
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(draws), BLOCK):
        rows = slice(start, start + BLOCK)
        part = (draws[rows] - mean) * np.sqrt(weights[rows, None])
        covariance += part.T @ part
    return _Moments(total, mean, covariance / total)


def _shares(densities: Floats) -> tuple[Floats, Floats]:
    """The share (N, J) of each draw in the components, and its log density (N,)."""
    largest = densities.max(1, keepdims=True)
    shares = np.exp(densities - largest)
    total = shares.sum(1, keepdims=True)
    return shares / total, (largest + np.log(total))[:, 0]
