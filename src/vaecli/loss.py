"""KL divergence, the evidence lower bound, the importance-weighted bound, and what is optimised.

Everything here sees tensors, never models, and is in nats per image.  B is the batch, K the
importance samples, L the latent dimension, `...` the pixel axes (C, H, W).  The name carries
the sign: `elbo` is maximised, `loss = -elbo`, `distortion`, `rate` and `objective` are
minimised.  `loss` always means beta = 1 and one draw; docs/maths.md has every formula.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaecli.config import Likelihood
from vaecli.likelihood import LIKELIHOODS


class Terms(NamedTuple):
    """The two terms of the bound, each (B,) nats per image; loss = distortion + rate.

    Attributes:
        distortion: -log p(x|z) at one draw z ~ q(z|x), summed over pixels.
        rate: KL(q(z|x) || p(z)), summed over latents.
    """

    distortion: Tensor
    rate: Tensor

    @property
    def loss(self) -> Tensor:
        """Negative ELBO of each image, (B,)."""
        return self.distortion + self.rate


def log_likelihood(
    images: Tensor,
    parameters: Tensor,
    likelihood: Likelihood = "bernoulli",
    log_scale: Tensor | None = None,
) -> Tensor:
    """Log p(x|z) of each image, summed over its pixels.

    Args:
        images: (B, ...) in [0, 1].
        parameters: decoder output, (B, ...), or (B, K, ...) for K latents per image.
        likelihood: which distribution p(x|z) is.
        log_scale: the decoder's learned log scale where the likelihood has one.

    Returns:
        (B,) or (B, K) nats.
    """
    pixel_axes = images.ndim - 1
    if parameters.ndim > images.ndim:
        images = images.unsqueeze(1)
    each = LIKELIHOODS[likelihood].log_prob(images, parameters, log_scale)
    return each.flatten(-pixel_axes).sum(-1)


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent dimension, same shape, in nats.

    0.5 * (mean^2 + exp(log_variance) - 1 - log_variance); Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + torch.exp(log_variance) - 1.0 - log_variance)


def elbo_terms(
    images: Tensor,
    parameters: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    likelihood: Likelihood = "bernoulli",
    log_scale: Tensor | None = None,
) -> Terms:
    """Distortion and rate of each image at the one latent that `parameters` was decoded from.

    Args:
        images: (B, C, H, W) in [0, 1].
        parameters: (B, C, H, W) decoder output.
        mean: (B, L) of q(z|x).
        log_variance: (B, L) of q(z|x).
        likelihood: which distribution p(x|z) is.
        log_scale: the decoder's learned log scale where the likelihood has one.
    """
    distortion = -log_likelihood(images, parameters, likelihood, log_scale)
    return Terms(distortion, kl_to_prior(mean, log_variance).sum(1))


def log_prior_ratio(latents: Tensor, noise: Tensor, log_variance: Tensor) -> Tensor:
    """Log p(z) - log q(z|x) at z = mean + exp(log_variance / 2) * noise, summed over latents.

    0.5 * (noise^2 + log_variance - z^2): the constants of the two normals cancel.

    Args:
        latents: z, (B, K, L).
        noise: (B, K, L).
        log_variance: (B, L).

    Returns:
        (B, K) nats; its mean over draws is -rate.
    """
    noise = noise.to(latents.dtype)  # or its square is rounded before it meets float64
    return 0.5 * (noise.square() + log_variance.unsqueeze(1) - latents.square()).sum(-1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """Log of the mean weight p(x|z_k) p(z_k) / q(z_k|x) of each image; Burda et al. 2016, eq. 8.

    A lower bound of log p(x) in expectation, the tighter the larger K; the ELBO at K = 1.

    Args:
        log_weights: (B, K).

    Returns:
        (B,) nats.
    """
    return torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])


class Weights:
    """The importance weights of a set of images, met a few samples at a time, in float64.

    Args:
        count: number of images N.
        device: where the sums are kept.
    """

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.samples = 0
        # log of the sum of the weights, and of their squares
        self._sum = torch.full((count,), -math.inf, dtype=torch.float64, device=device)
        self._squares = self._sum.clone()

    def add(self, log_weights: Tensor) -> None:
        """Take in some more samples, log weights (N, k)."""
        log_weights = log_weights.double()
        self._sum = torch.logaddexp(self._sum, torch.logsumexp(log_weights, 1))
        self._squares = torch.logaddexp(self._squares, torch.logsumexp(2 * log_weights, 1))
        self.samples += log_weights.shape[1]

    def bound(self) -> Tensor:
        """The importance-weighted bound of each image, as `importance_bound`; (N,) nats."""
        return self._sum - math.log(self.samples)

    def effective_samples(self) -> Tensor:
        """(Sum of weights)^2 / sum of squares: 1 to K for each image (N,); Kish 1965."""
        return torch.exp(2 * self._sum - self._squares)


def warm_up(step: int, steps: int) -> float:
    """The share of beta at step 0, 1, ... : rises from 0 to 1 over `steps`, then stays."""
    return min(1.0, step / steps) if steps else 1.0


def beta_objective(
    distortion: Tensor, kl: Tensor, *, beta: Tensor | float = 1.0, free_bits: float = 0.0
) -> Tensor:
    """Distortion + beta * sum over latents of max(KL, free_bits), for each image.

    beta: Higgins et al. 2017.  Free bits: Kingma et al. 2016, eq. 15, taken image by image, so
    that the batch size does not change what is optimised.

    Args:
        distortion: (B,).
        kl: (B, L) rate of each latent dimension.
        beta: weight of the rate.
        free_bits: nats per dimension below which a smaller KL gains nothing.

    Returns:
        (B,) nats, to be minimised.
    """
    penalised = kl.clamp(min=free_bits) if free_bits else kl
    return distortion + beta * penalised.sum(1)


def importance_objective(
    log_likelihoods: Tensor, prior_ratios: Tensor, *, beta: Tensor | float = 1.0
) -> Tensor:
    """Negative importance-weighted bound of each image, its log prior ratio weighted by beta.

    Args:
        log_likelihoods: log p(x|z_k), (B, K).
        prior_ratios: log p(z_k) - log q(z_k|x), (B, K).
        beta: 1 for the bound itself; less during warm-up.

    Returns:
        (B,) nats, to be minimised.
    """
    return -importance_bound(log_likelihoods + beta * prior_ratios)
