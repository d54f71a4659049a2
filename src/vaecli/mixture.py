"""A Gaussian mixture in place of the prior, fitted to where the encoder puts the data.

The only file that imports scikit-learn, which comes with `vaecli[gmm]`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from vaecli import extras
from vaecli.latent_space import Embedding
from vaecli.model import reparameterize
from vaecli.noise import NormalNoise, derive_seed

COMPONENTS = 10


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians over latents.

    Attributes:
        weights: (K,), summing to 1.
        means: (K, L).
        factors: (K, L, L), lower Cholesky factors of the covariances.
        converged: whether the fit came to rest.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    converged: bool = True

    def sample(self, count: int, *, seed: int, temperature: float = 1.0) -> Tensor:
        """Draw (count, L); the first of more draws are the draws of fewer.

        Args:
            count: number of draws.
            seed: of the randomness.
            temperature: scales the distance from the mean of a component.
        """
        noise = NormalNoise(self.means.shape[1] + 1, seed=seed, purpose="mixture").rows(0, count)
        uniform = 0.5 * (1 + torch.erf(noise[:, 0].double() / math.sqrt(2)))
        edges = self.weights.double().cumsum(0)[:-1]
        chosen = torch.searchsorted(edges, uniform, right=True)
        spread = torch.einsum("nij,nj->ni", self.factors[chosen], noise[:, 1:])
        return self.means[chosen] + temperature * spread


def fit(embedding: Embedding, *, components: int = COMPONENTS, seed: int) -> Mixture:
    """Fit to the aggregate posterior: one draw of q(z|x) per image, as in Ghosh et al. 2020.

    Full covariances, by expectation-maximisation.

    Args:
        embedding: the training images.
        components: K; fewer where there are fewer images.
        seed: of the draws and of the start.

    Raises:
        EnvironmentFailure: scikit-learn is not installed.
    """
    extras.require("gmm", "--prior gmm")
    from sklearn import mixture

    mean, log_variance = embedding.mean.cpu(), embedding.log_variance.cpu()
    noise = NormalNoise(mean.shape[1], seed=seed, purpose="aggregate-posterior")
    draws = reparameterize(mean, log_variance, noise.rows(0, len(mean)))
    model = mixture.GaussianMixture(
        min(components, len(draws)),
        covariance_type="full",
        reg_covar=1e-4,  # a collapsed dimension or few images must not make a spike
        random_state=derive_seed(seed, "mixture-start") % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it converged is told to the caller
        model.fit(draws.double().numpy())
    covariances = torch.from_numpy(model.covariances_)
    return Mixture(
        weights=torch.from_numpy(model.weights_).float(),
        means=torch.from_numpy(model.means_).float(),
        factors=torch.linalg.cholesky(covariances).float(),
        converged=bool(model.converged_),
    )
