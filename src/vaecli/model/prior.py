"""Priors p(z): KL divergence, log ratio, and log densities of those other than N(0, I).

Axes: B batch, K importance samples, L latent dimension, J components.  Everything is in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaecli.model import numpy_prior


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from q(z|x) to the prior N(0, I), for each latent dimension.

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
    """Log ratio of the prior N(0, I) to the posterior at latents drawn from the posterior.

    At z = m + exp(v/2) e, with e = noise and v = log_variance, the normalising constants of the
    two normals cancel::

        log p(z) - log q(z|x) = sum over L of (e^2 + v - z^2) / 2

    Its mean over many draws is minus the rate.

    Source: the importance weight of Burda et al. 2016, equation 8, without its p(x|z),
    https://arxiv.org/abs/1509.00519

    Args:
        latents: z, (B, K, L).
        noise: e, (B, K, L).
        log_variance: v, (B, L), or (B, K, L) where it depends on the draw.

    Returns:
        (B, K) nats.

    Example:
        One image, two draws of a latent with mean 1 and variance 1:

        >>> noise = torch.tensor([[[0.0], [2.0]]])
        >>> log_prior_ratio(1 + noise, noise, torch.zeros(1, 1))
        tensor([[-0.5000, -2.5000]])
    """
    noise = noise.to(latents.dtype)  # or its square is rounded before it meets float64
    if log_variance.ndim < noise.ndim:
        log_variance = log_variance.unsqueeze(1)
    return 0.5 * (noise.square() + log_variance - latents.square()).sum(-1)


def log_gain(prior: nn.Module, latents: Tensor) -> Tensor:
    """How much denser another prior is than N(0, I) at latents drawn from the posterior.

    ::

        log p(z) - log N(z; 0, I)

    Its mean is what the rate falls by: KL(q || p) = KL(q || N(0, I)) - E_q[log p(z) - log N(z)].
    So the closed form for N(0, I) stays, and only this is left to a draw.

    Args:
        prior: a module that gives log p(z).
        latents: z, (..., L).

    Returns:
        (...) nats.

    Example:
        A Gaussian at 1 in place of the one at 0:

        >>> import numpy as np
        >>> one = numpy_prior.Mixture(np.ones(1), np.ones((1, 1)), np.ones((1, 1, 1)))
        >>> log_gain(FullMixture(one).float(), torch.tensor([[1.0], [0.0]]))
        tensor([ 0.5000, -0.5000])
    """
    normal = -0.5 * (latents.square().sum(-1) + latents.shape[-1] * math.log(2 * math.pi))
    density: Tensor = prior(latents)
    return density - normal


class FullMixture(nn.Module):
    """The log density of `numpy_prior.Mixture`.

    Args:
        mixture: its weights, means and factors.

    Example:
        >>> import numpy as np
        >>> one = numpy_prior.Mixture(np.ones(1), np.ones((1, 1)), np.ones((1, 1, 1)))
        >>> FullMixture(one)(torch.ones(1, 1, dtype=torch.float64))
        tensor([-0.9189], dtype=torch.float64)
    """

    matrix: Tensor
    centres: Tensor
    constant: Tensor

    def __init__(self, mixture: numpy_prior.Mixture) -> None:
        super().__init__()
        self.name = mixture.name
        for name, values in zip(("matrix", "centres", "constant"), mixture.whitening, strict=True):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (..., L) to log p(z), (...)."""
        noise = latents @ self.matrix.T - self.centres
        squares = noise.unflatten(-1, (len(self.constant), -1)).square().sum(-1)
        return torch.logsumexp(self.constant - 0.5 * squares, -1)
