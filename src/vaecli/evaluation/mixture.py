"""Fits a mixture of Gaussians to the latents of the training images, the prior of `--prior gmm`.

Axes: N draws, L latent dimension, J components, F = 1 + L + L (L + 1) / 2 features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vaecli import philox
from vaecli.evaluation import shrunk_mixture
from vaecli.evaluation.generation import draw_latents
from vaecli.evaluation.latent_space import Embedding
from vaecli.evaluation.neighbours import closest, k_means, spread_out
from vaecli.evaluation.shrunk_mixture import SPREAD
from vaecli.model.numpy_prior import Mixture
from vaecli.runs.fitted_prior import FittedPrior
from vaecli.system.callbacks import Progress, no_progress
from vaecli.system.threads import in_order

Floats = NDArray[np.float64]

SIZES = 1, 10, 40, 100
"""Numbers of components that are tried."""
HELD_OUT = 6
"""One draw in this many is not fitted to, but chooses the size."""
MAX_LATENTS = 256
"""Covariances of more latents than this hold more numbers than images tell, and are shrunk."""
TOLERANCE = 1e-3
"""The fit ends where a pass gains less than this, in nats per draw..."""
PASSES = 100
"""...or after this many."""
SMALLEST_SCALE = 1e-6
"""Latents that vary less are taken for constants."""
CENTRE_PASSES = 8
CENTRE_DRAWS = 10_000
"""Draws among which the first centres are looked for."""
BLOCK, FEWEST = 1 << 17, 256
"""Features, or shares of components, that are computed at once; of this many draws at least."""


def fit(
    embedding: Embedding,
    *,
    seed: int,
    sizes: Sequence[int] = SIZES,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> FittedPrior:
    """Fit a mixture to the aggregate posterior, with full covariances.

    The aggregate posterior is the mean of q(z|x) over the training images; one draw per image
    stands for it.  Of all densities p, it is the one with the smallest rate.  A sixth of the draws,
    taken at random, chooses the number of components by their mean log density.

    Source: Ghosh et al. 2020, section 4, https://arxiv.org/abs/1903.12436, by
    expectation-maximisation (Dempster, Laird & Rubin 1977)

    Args:
        embedding: mean and log variance of q(z|x) of the N training images, each (N, L); of a
            grid at the draws of this seed, see `latent_space.embed`.
        seed: seed of the draws, of the split, and of the first guess.
        sizes: numbers of components to try, in order; the first that is no better ends it.
        workers: threads; None for one on each core.
        progress: told (what, done, total) as it goes.
    """
    count, latent_dim = embedding.mean.shape
    noise = philox.normal(latent_dim, 0, count, seed=seed, purpose="aggregate-posterior")
    draws = draw_latents(*embedding, noise)
    if latent_dim <= MAX_LATENTS:
        draws = draws.astype(np.float64)
    centre, scale = draws.mean(0, dtype=np.float64), draws.std(0, dtype=np.float64)
    scale = scale.clip(min=SMALLEST_SCALE)
    draws = (draws - centre.astype(draws.dtype)) / scale.astype(draws.dtype)
    order = philox.uniform(1, 0, count, seed=seed, purpose="mixture held out")[:, 0].argsort()
    held_out, fitted = np.split(draws[order], [count // HELD_OUT])
    if latent_dim > MAX_LATENTS:
        best = shrunk_mixture.fit(fitted, held_out, workers=workers, progress=progress)
    else:
        best = _best_size(fitted, held_out, sizes, seed, workers, progress)
    means = centre + scale * best.means
    mixture = Mixture(best.weights, means, scale[:, None] * best.factors)
    return FittedPrior(mixture, len(fitted), len(held_out))


def _best_size(
    fitted: Floats,
    held_out: Floats,
    sizes: Sequence[int],
    seed: int,
    workers: int | None,
    progress: Progress,
) -> Mixture:
    best, best_score = None, -math.inf
    sizes = [size for size in sizes if size <= len(fitted)] or [1]
    for tried, size in enumerate(sizes):
        progress("fitting the prior", tried, len(sizes))
        found = _Fitting(fitted, size, seed, workers).run()
        score = float(found.log_prob(held_out).mean()) if len(held_out) else -float(size)
        if score <= best_score:
            break
        best, best_score = found, score
    progress("fitting the prior", len(sizes), len(sizes))
    assert best is not None
    return best


@dataclass
class _Fitting:
    """Expectation-maximisation, in which both steps are one matrix product with features of z.

    The features are 1, z_i, and z_i z_k for i <= k; the log density of each component is linear in
    them, and their sums, weighted by the components' shares, are all that a component needs.
    """

    draws: Floats
    size: int
    seed: int
    workers: int | None
    _pairs: tuple[NDArray[np.intp], NDArray[np.intp]] = field(init=False)

    def __post_init__(self) -> None:
        self._pairs = np.triu_indices(self.draws.shape[1])

    def run(self) -> Mixture:
        """The mixture where passes no longer gain."""
        mixture = self._maximised(self._first_sums())
        last = -math.inf
        for _ in range(PASSES):
            score, sums = self._expected(mixture)
            mixture = self._maximised(sums)
            if score - last < TOLERANCE:
                break
            last = score
        return mixture

    def _features(self, draws: Floats) -> Floats:
        """The features (F, n) of draws (n, L)."""
        latents = np.ascontiguousarray(draws.T)
        dimension, start = len(latents), 1 + len(latents)
        found = np.empty((start + len(self._pairs[0]), len(draws)))
        found[0], found[1:start] = 1, latents
        for index, latent in enumerate(latents):  # three times as fast as by indices
            stop = start + dimension - index
            np.multiply(latent, latents[index:], out=found[start:stop])
            start = stop
        return found

    def _coefficients(self, mixture: Mixture) -> Floats:
        """Of the features, in the log of each component's weighted density, (J, F)."""
        matrix, centres, constant = mixture.whitening
        shape = *mixture.means.shape, mixture.means.shape[1]
        inverse, centres = matrix.reshape(shape), centres.reshape(shape[:2])
        precision = np.einsum("jab,jac->jbc", inverse, inverse)
        linear = np.einsum("jab,ja->jb", inverse, centres)
        constant = constant - 0.5 * np.square(centres).sum(1)
        first, second = self._pairs
        quadratic = np.where(first == second, -0.5, -1) * precision[:, first, second]
        return np.concatenate([constant[:, None], linear, quadratic], 1)

    def _expected(self, mixture: Mixture) -> tuple[float, Floats]:
        """Mean log density, and the sums (J, F) of the features that fall to each component."""
        coefficients = self._coefficients(mixture)

        def work(start: int) -> tuple[float, Floats]:
            features = self._features(self.draws[start : start + rows])
            shares = coefficients @ features
            largest = shares.max(0)
            shares = np.exp(shares - largest)
            total = shares.sum(0)
            score = float((np.log(total) + largest).sum())
            return score, (shares / total) @ features.T

        rows = self._rows(coefficients.shape[1])
        score, sums = 0.0, np.zeros_like(coefficients)
        for _, (part, more) in in_order(work, range(0, len(self.draws), rows), self.workers):
            score, sums = score + part, sums + more
        return score / len(self.draws), sums

    def _rows(self, features: int) -> int:
        return max(FEWEST, BLOCK // max(features, self.size))

    def _maximised(self, sums: Floats) -> Mixture:
        """The mixture with the moments that the sums (J, F) say."""
        latent_dim = self.draws.shape[1]
        counts = sums[:, :1] + 1e-10  # a component that nothing falls to stays, with no weight
        means = sums[:, 1 : latent_dim + 1] / counts
        covariances = np.empty((len(sums), latent_dim, latent_dim))
        first, second = self._pairs
        covariances[:, first, second] = sums[:, latent_dim + 1 :] / counts
        covariances[:, second, first] = covariances[:, first, second]
        covariances -= means[:, :, None] * means[:, None]
        covariances += SPREAD * np.eye(latent_dim)
        weights = counts[:, 0] / counts.sum()
        return Mixture(weights, means, np.linalg.cholesky(covariances).astype(np.float64))

    def _first_sums(self) -> Floats:
        """Sums of the features over the draws nearest to each of J centres.

        The centres are those of k-means, from a start that spreads them out.
        """
        uniform = philox.uniform(self.size, 0, 1, seed=self.seed, purpose="mixture start")[0]
        near = self.draws[:CENTRE_DRAWS]
        centres = k_means(near, spread_out(near, uniform), CENTRE_PASSES)
        total = np.zeros((self.size, 1 + near.shape[1] + len(self._pairs[0])))
        rows = self._rows(total.shape[1])
        for start in range(0, len(self.draws), rows):
            part = self.draws[start : start + rows]
            of = np.eye(self.size)[:, closest(part, centres)]
            total += of @ self._features(part).T
        return total
