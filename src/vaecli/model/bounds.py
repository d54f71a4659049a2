"""The evidence lower bound, the importance-weighted bound, and what training minimises.

These functions take tensors, not models, and return nats per image.  B batch, K importance
samples, L latent dimension, D = C*H*W pixels; `...` stands for the pixel axes (C, H, W).  The
name carries the sign: `elbo` is maximised, `loss = -elbo`, `distortion`, `rate` and `objective`
are minimised.  `loss` always means beta = 1 and one draw of z.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaecli.config import Likelihood
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.prior import kl_to_prior


class Terms(NamedTuple):
    """The two terms of the evidence lower bound, in nats per image.

    At one draw z ~ q(z|x)::

        elbo = log p(x|z) - KL(q(z|x) || p(z)) = -(distortion + rate) = -loss

    Source: Kingma & Welling 2014, equation 3, with one draw for the expectation,
    https://arxiv.org/abs/1312.6114

    Attributes:
        distortion: -log p(x|z), summed over pixels, (B,).
        rate: KL(q(z|x) || p(z)), summed over latents, (B,).

    Example:
        >>> Terms(distortion=torch.tensor([70.0]), rate=torch.tensor([25.0])).loss
        tensor([95.])
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
    """Log likelihood of each image, for pixels that are independent given z.

    ::

        log p(x|z) = sum over D pixels of log p(x_d|z)

    The log p(x_d|z) of a pixel is in `LIKELIHOODS`, with its source.

    Args:
        images: (B, ...) in [0, 1].
        parameters: decoder output, (B, ...), or (B, K, ...) for K latents per image.
        likelihood: the distribution p(x|z).
        log_scale: the decoder's learned log scale, for a likelihood that has one.

    Returns:
        (B,) or (B, K) nats.

    Example:
        At logit 0 each of six pixels costs log 2:

        >>> log_likelihood(torch.ones(1, 1, 2, 3), torch.zeros(1, 1, 2, 3)) / math.log(2)
        tensor([-6.])
    """
    pixel_axes = images.ndim - 1
    if parameters.ndim > images.ndim:
        images = images.unsqueeze(1)
    distribution = LIKELIHOODS[likelihood]
    if distribution.summed is not None and not torch.is_grad_enabled():
        return distribution.summed(images.flatten(-pixel_axes), parameters.flatten(-pixel_axes))
    each = distribution.log_prob(images, parameters, log_scale)
    return each.flatten(-pixel_axes).sum(-1)


def elbo_terms(
    images: Tensor,
    parameters: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    likelihood: Likelihood = "bernoulli",
    log_scale: Tensor | None = None,
) -> Terms:
    """Distortion and rate of each image, as `Terms`.

    Args:
        images: (B, C, H, W) in [0, 1].
        parameters: (B, C, H, W), decoded from one draw of q(z|x) per image.
        mean: mean of q(z|x), (B, L).
        log_variance: log variance of q(z|x), (B, L).
        likelihood: the distribution p(x|z).
        log_scale: the decoder's learned log scale, for a likelihood that has one.

    Example:
        >>> pixels, latents = torch.ones(1, 1, 2, 3), torch.zeros(1, 4)
        >>> elbo_terms(pixels, torch.zeros(1, 1, 2, 3), latents + 1, latents)
        Terms(distortion=tensor([4.1589]), rate=tensor([2.]))
    """
    distortion = -log_likelihood(images, parameters, likelihood, log_scale)
    return Terms(distortion, kl_to_prior(mean, log_variance).sum(1))


def importance_bound(log_weights: Tensor) -> Tensor:
    """Importance-weighted bound of each image.

    ::

        log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x)
        bound   = log (1/K) sum over k of w_k

    Its expectation is at most log p(x), grows with K, and is the ELBO at K = 1.

    Source: Burda et al. 2016, equation 8, https://arxiv.org/abs/1509.00519

    Args:
        log_weights: log w_k, (B, K).

    Returns:
        (B,) nats.

    Example:
        >>> importance_bound(torch.tensor([[1.0, 3.0]]).log())
        tensor([0.6931])
    """
    return torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])


SUMMED_AT_ONCE = 128
"""Samples of an image."""


class ImportanceWeights:
    """The importance weights of a set of images, added a few samples at a time, in float64.

    Args:
        count: number of images N.
        device: where the sums are kept.

    Example:
        >>> weights = ImportanceWeights(1)
        >>> weights.add(torch.tensor([[1.0, 3.0]]).log())
        >>> weights.add(torch.tensor([[2.0]]).log())
        >>> round(weights.bound().exp().item(), 4), round(weights.effective_samples().item(), 4)
        (2.0, 2.5714)
    """

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.samples = 0
        # log of the sum of the weights, and of their squares
        self._sum = torch.full((count,), -math.inf, dtype=torch.float64, device=device)
        self._squares = self._sum.clone()
        self._waiting: list[Tensor] = []
        """Not in these sums yet: summing a few samples takes as long as summing many."""

    def add(self, log_weights: Tensor) -> None:
        """Add the log weights of more samples, (N, any number)."""
        self._waiting.append(log_weights.double())
        self.samples += log_weights.shape[1]
        if sum(each.shape[1] for each in self._waiting) >= SUMMED_AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            log_weights = torch.cat(self._waiting, 1)
            self._waiting.clear()
            self._sum = torch.logaddexp(self._sum, torch.logsumexp(log_weights, 1))
            self._squares = torch.logaddexp(self._squares, torch.logsumexp(2 * log_weights, 1))

    def bound(self) -> Tensor:
        """The bound of each image, as `importance_bound` defines it; (N,) nats."""
        self._settle()
        return self._sum - math.log(self.samples)

    def effective_samples(self) -> Tensor:
        """Effective sample size of each image, (N,), between 1 and K.

        ::

            ess = (sum over k of w_k)^2 / (sum over k of w_k^2)

        Source: Kish 1965, Survey Sampling; for importance samples, Owen 2013, section 9.3,
        https://artowen.su.domains/mc/Ch-var-is.pdf
        """
        self._settle()
        return torch.exp(2 * self._sum - self._squares)


def warm_up(step: int, steps: int) -> float:
    """Share of beta at a step, rising linearly from 0 to 1.

    ::

        share = min(1, step / steps)

    Source: Sønderby et al. 2016, https://arxiv.org/abs/1602.02282

    Args:
        step: 0, 1, ...
        steps: length of the warm-up; 0 for none.

    Example:
        >>> [warm_up(step, 4) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, step / steps) if steps else 1.0


def beta_objective(
    distortion: Tensor, kl: Tensor, *, beta: Tensor | float = 1.0, free_bits: float = 0.0
) -> Tensor:
    """Objective of each image for beta-VAE and free bits.

    ::

        objective = distortion + beta * sum over L of max(kl_l, free_bits)

    The maximum is taken image by image, where the paper takes it on the mean of a batch: so the
    batch size does not change what is optimised.

    Sources: beta, Higgins et al. 2017, equation 4, https://openreview.net/forum?id=Sy2fzU9gl;
    free bits, Kingma et al. 2016, equation 15, https://arxiv.org/abs/1606.04934

    Args:
        distortion: (B,).
        kl: rate of each latent dimension, (B, L).
        beta: weight of the rate.
        free_bits: nats per dimension below which a smaller KL gains nothing.

    Returns:
        (B,) nats, to be minimised.

    Example:
        >>> kl = torch.tensor([[0.5, 3.0]])
        >>> beta_objective(torch.tensor([70.0]), kl, beta=2.0, free_bits=1.0)
        tensor([78.])
    """
    penalised = kl.clamp(min=free_bits) if free_bits else kl
    return distortion + beta * penalised.sum(1)


def importance_objective(
    log_likelihoods: Tensor, prior_ratios: Tensor, *, beta: Tensor | float = 1.0
) -> Tensor:
    """Objective of each image for the importance-weighted bound.

    ::

        objective = -log (1/K) sum over k of p(x|z_k) (p(z_k) / q(z_k|x))^beta

    Source: Burda et al. 2016, equation 8, https://arxiv.org/abs/1509.00519, at beta = 1

    Args:
        log_likelihoods: log p(x|z_k), (B, K).
        prior_ratios: log p(z_k) - log q(z_k|x), (B, K).
        beta: 1 for the bound itself; less during warm-up.

    Returns:
        (B,) nats, to be minimised.

    Example:
        >>> importance_objective(torch.tensor([[-70.0]]), torch.tensor([[-25.0]]))
        tensor([95.])
    """
    return -importance_bound(log_likelihoods + beta * prior_ratios)


def dreg_share(log_weights: Tensor, beta: Tensor | float = 1.0) -> Tensor:
    """What remains of the gradient at draw k for the encoder, when it is reparameterized twice.

    With normalised weights u_k, and g_k the gradient of log w_k by z_k times that of z_k by the
    encoder's parameters, the bound's gradient is the mean of::

        sum over k of u_k (1 - beta + beta u_k) g_k

    Backpropagation brings u_k g_k; this is the rest, 1 - beta + beta u_k.  At beta = 1 that leaves
    u_k^2 g_k, as in the paper.  For another beta its score term, which the second
    reparameterization replaces, has beta as a factor.

    Source: Tucker et al. 2019, equation 7, https://arxiv.org/abs/1810.04152, at beta = 1

    Args:
        log_weights: log p(x|z_k) + beta (log p(z_k) - log q(z_k|x)), (B, K).
        beta: weight of the rate.

    Returns:
        (B, K).

    Example:
        >>> dreg_share(torch.tensor([[1.0, 3.0]]).log(), beta=0.5)
        tensor([[0.6250, 0.8750]])
    """
    return 1 - beta + beta * torch.softmax(log_weights, 1)
