"""Log-likelihoods, KL divergence and the evidence lower bound, in nats per image.

Everything here sees tensors, never models.  B is the batch, L the latent dimension, `...` the
pixel axes (C, H, W).  The name carries the sign: `elbo` is maximised, `loss = -elbo`,
`distortion` and `rate` are minimised.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


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


def bernoulli_log_likelihood(images: Tensor, logits: Tensor) -> Tensor:
    """Log p(x) = sum over pixels of x*l - softplus(l), for pixels x in [0, 1] and logits l.

    For grey x this is the grey-scale BCE, not a normalised likelihood.  Written on logits,
    so that it neither overflows nor loses its gradient where the sigmoid saturates.

    Args:
        images: (B, ...) in [0, 1].
        logits: (B, ...).

    Returns:
        (B,) nats.
    """
    return (images * logits - functional.softplus(logits)).flatten(1).sum(1)


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each latent dimension, same shape, in nats.

    0.5 * (mean^2 + exp(log_variance) - 1 - log_variance); Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + torch.exp(log_variance) - 1.0 - log_variance)


def elbo_terms(images: Tensor, logits: Tensor, mean: Tensor, log_variance: Tensor) -> Terms:
    """Distortion and rate of each image at the one latent that `logits` was decoded from.

    Args:
        images: (B, C, H, W) in [0, 1].
        logits: (B, C, H, W) decoder output.
        mean: (B, L) of q(z|x).
        log_variance: (B, L) of q(z|x).
    """
    distortion = -bernoulli_log_likelihood(images, logits)
    return Terms(distortion, kl_to_prior(mean, log_variance).sum(1))


def pixel_mean(logits: Tensor) -> Tensor:
    """E[x|z] of each pixel for decoder output of any shape, in [0, 1]."""
    return torch.sigmoid(logits)


def bernoulli_output_bias(mean_image: Tensor, count: int) -> Tensor:
    """Logits at which the decoder starts: those of the mean image of `count` training images.

    Smoothed by half an image of either colour, so that a pixel that is always black starts at
    a finite logit.
    """
    probability = (mean_image * count + 0.5) / (count + 1)
    return torch.logit(probability)
