"""The prior p(z) = N(0, I): its KL divergence and log ratio; and a fitted mixture in its place.

Axes: B batch, K importance samples, L latent dimension, N draws.  Everything is in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaecli.noise import NormalNoise


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from q(z|x) to the prior, for each latent dimension.

    With m = mean and v = log_variance::

        KL(N(m, exp(v)) || N(0, 1)) = (m^2 + exp(v) - 1 - v) / 2

    Source: Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114

    Args:
        mean: m, of any shape; (B, L) for a batch.
        log_variance: v, same shape.

    Returns:
        Nats, same shape.

    Example:
        >>> kl_to_prior(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([[0., 2.]])
    """
    return 0.5 * (mean.square() + torch.exp(log_variance) - 1.0 - log_variance)


def log_prior_ratio(latents: Tensor, noise: Tensor, log_variance: Tensor) -> Tensor:
    """Log ratio of prior to posterior at latents drawn from the posterior.

    At z = m + exp(v/2) e, with e = noise and v = log_variance, the normalising constants of the
    two normals cancel::

        log p(z) - log q(z|x) = sum over L of (e^2 + v - z^2) / 2

    Its mean over many draws is minus the rate.

    Source: the importance weight of Burda et al. 2016, equation 8, without its p(x|z),
    https://arxiv.org/abs/1509.00519

    Args:
        latents: z, (B, K, L).
        noise: e, (B, K, L).
        log_variance: v, (B, L).

    Returns:
        (B, K) nats.

    Example:
        One image, two draws of a latent with mean 1 and variance 1:

        >>> noise = torch.tensor([[[0.0], [2.0]]])
        >>> log_prior_ratio(1 + noise, noise, torch.zeros(1, 1))
        tensor([[-0.5000, -2.5000]])
    """
    noise = noise.to(latents.dtype)  # or its square is rounded before it meets float64
    return 0.5 * (noise.square() + log_variance.unsqueeze(1) - latents.square()).sum(-1)


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
        ...     weights=torch.tensor([0.5, 0.5]),
        ...     means=torch.tensor([[-3.0], [3.0]]),
        ...     factors=torch.zeros(2, 1, 1),
        ... )
        >>> sorted(set(mixture.sample(20, seed=0).flatten().tolist()))
        [-3.0, 3.0]
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    converged: bool = True

    def sample(self, count: int, *, seed: int, temperature: float = 1.0) -> Tensor:
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
        noise = NormalNoise(self.means.shape[1] + 1, seed=seed, purpose="mixture").rows(0, count)
        uniform = 0.5 * (1 + torch.erf(noise[:, 0].double() / math.sqrt(2)))
        edges = self.weights.double().cumsum(0)[:-1]
        chosen = torch.searchsorted(edges, uniform, right=True)
        spread = torch.einsum("nij,nj->ni", self.factors[chosen], noise[:, 1:])
        return self.means[chosen] + temperature * spread
