"""A Gaussian mixture, fitted to the latents of the training images.

The only file that imports scikit-learn, which the extra `vaecli[gmm]` installs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaecli import philox
from vaecli.evaluation.generation import Floats, draw_latents
from vaecli.evaluation.latent_space import Embedding
from vaecli.system import extras

COMPONENTS = 10


@dataclass(frozen=True)
class Mixture:
    """A mixture of J Gaussians that takes the prior's place when sampling.

    Its density is::

        p(z) = sum over j of weights[j] N(z; means[j], factors[j] factors[j]^T)

    Source: Ghosh et al. 2020, section 4, https://arxiv.org/abs/1903.12436

    Attributes:
        weights: (J,), summing to 1.
        means: (J, L).
        factors: (J, L, L), lower Cholesky factors of the covariances.
        converged: whether the fit converged.

    Example:
        >>> mixture = Mixture(
        ...     weights=np.array([0.5, 0.5]),
        ...     means=np.array([[-3.0], [3.0]]),
        ...     factors=np.zeros((2, 1, 1)),
        ... )
        >>> sorted(set(mixture.sample(20, seed=0).flatten().tolist()))
        [-3.0, 3.0]
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    factors: NDArray[np.float64]
    converged: bool = True

    def sample(self, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """Draw latents; the first draws do not depend on `count`.

        A component j is drawn from the weights and e from N(0, I), then, at temperature t::

            z = means[j] + t factors[j] e

        Args:
            count: number of draws N.
            seed: seed of the draws.
            temperature: t; 0 gives the means of the components.

        Returns:
            (N, L).
        """
        latent_dim = self.means.shape[1]
        e = philox.normal(latent_dim, 0, count, seed=seed, purpose="mixture")
        uniform = philox.uniform(1, 0, count, seed=seed, purpose="mixture components")[:, 0]
        chosen = np.searchsorted(np.cumsum(self.weights)[:-1], uniform, side="right")
        spread = np.einsum("nij,nj->ni", self.factors[chosen], e)
        drawn: Floats = (self.means[chosen] + temperature * spread).astype(np.float32)
        return drawn


def fit(embedding: Embedding, *, components: int = COMPONENTS, seed: int) -> Mixture:
    """Fit a mixture to the aggregate posterior, with full covariances.

    The aggregate posterior is the mean of q(z|x) over the training images; one draw per image
    stands for it.  The fit is scikit-learn's expectation-maximisation.

    Source: Ghosh et al. 2020, section 4, https://arxiv.org/abs/1903.12436

    Args:
        embedding: mean and log variance of q(z|x) of the N training images, each (N, L).
        components: number of Gaussians; N where that is smaller.
        seed: seed of the draws and of the first guess.

    Raises:
        EnvironmentFailure: scikit-learn is not installed.
    """
    extras.require("gmm", "--prior gmm")
    from sklearn import mixture

    shape = embedding.mean.shape
    noise = philox.normal(shape[1], 0, shape[0], seed=seed, purpose="aggregate-posterior")
    draws = draw_latents(*embedding, noise)
    model = mixture.GaussianMixture(
        min(components, len(draws)),
        covariance_type="full",
        reg_covar=1e-4,  # keeps a collapsed dimension, or few images, from making a spike
        random_state=philox.derive_seed(seed, "mixture-start") % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller sees it in `converged`
        model.fit(draws.astype(np.float64))
    return Mixture(
        weights=model.weights_,
        means=model.means_,
        factors=np.linalg.cholesky(model.covariances_),
        converged=bool(model.converged_),
    )
