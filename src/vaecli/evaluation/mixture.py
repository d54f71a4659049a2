"""Fit a Gaussian mixture to the latents of the training images.

The only file that imports scikit-learn, which the extra `vaecli[gmm]` installs.
"""

from __future__ import annotations

import warnings

import torch

from vaecli.evaluation.latent_space import Embedding
from vaecli.model.prior import Mixture
from vaecli.model.vae import reparameterize
from vaecli.noise import NormalNoise, derive_seed
from vaecli.system import extras

COMPONENTS = 10


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

    mean, log_variance = embedding.mean.cpu(), embedding.log_variance.cpu()
    noise = NormalNoise(mean.shape[1], seed=seed, purpose="aggregate-posterior")
    draws = reparameterize(mean, log_variance, noise.rows(0, len(mean)))
    model = mixture.GaussianMixture(
        min(components, len(draws)),
        covariance_type="full",
        reg_covar=1e-4,  # keeps a collapsed dimension, or few images, from making a spike
        random_state=derive_seed(seed, "mixture-start") % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller sees it in `converged`
        model.fit(draws.double().numpy())
    covariances = torch.from_numpy(model.covariances_)
    return Mixture(
        weights=torch.from_numpy(model.weights_).float(),
        means=torch.from_numpy(model.means_).float(),
        factors=torch.linalg.cholesky(covariances).float(),
        converged=bool(model.converged_),
    )
