"""The prior p(z) = N(0, I): its KL divergence and log ratio.

Axes: B batch, K importance samples, L latent dimension.  Everything is in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
