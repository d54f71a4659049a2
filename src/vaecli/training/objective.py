"""What a training step minimises: the random draws of an epoch, the objective of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from vaecli.config import Gradient, ModelConfig, TrainConfig
from vaecli.model.bounds import (
    beta_objective,
    dreg_share,
    importance_objective,
    log_likelihood,
)
from vaecli.model.prior import kl_to_prior, log_gain, log_prior_ratio
from vaecli.model.vae import VAE, as_float, reparameterize
from vaecli.noise import LevelNoise, NormalNoise, SampleNoise

PASS_VALUES = 1 << 21
"""Pixel values decoded at once when K samples per image are drawn."""


class Outcome(NamedTuple):
    """Objective, distortion and rate of each image, (B,) nats; see `bounds.Terms`."""

    objective: Tensor
    distortion: Tensor
    rate: Tensor


class Draws:
    """All random draws of one epoch, addressed by position in its visiting order.

    Args:
        model: latent dimension and image shape.
        training: seed, importance samples and binarization.
        epoch: from 0.
        device: where to draw.
    """

    def __init__(
        self, model: ModelConfig, training: TrainConfig, epoch: int, device: torch.device | str
    ) -> None:
        seed, self._samples = training.seed, training.importance_samples
        latents = model.latents
        self._normal = NormalNoise(
            latents, seed=seed, purpose="training", epoch=epoch, device=device
        )
        self._several = SampleNoise(
            latents, seed=seed, purpose="training", epoch=epoch, device=device
        )
        self._levels = None
        if training.binarize == "dynamic":
            self._levels = LevelNoise(
                model.image_shape, seed=seed, purpose="training", epoch=epoch, device=device
            )

    def images(self, pixels: Tensor, start: int) -> Tensor:
        """Pixels (B, C, H, W) uint8 of the places from `start` on, as floats in [0, 1]."""
        return as_float(pixels if self._levels is None else self._levels.binarize(pixels, start))

    def noise(self, start: int, stop: int) -> Tensor:
        """(B, L) noise of the places start..stop-1, or (B, K, L) for K > 1 samples."""
        if self._samples == 1:
            return self._normal.rows(start, stop)
        return self._several.rows(start, stop, self._samples)


def most_images(model: ModelConfig, samples: int) -> int | None:
    """Images whose K samples are decoded together at most; None for no limit, where K is 1."""
    return None if samples == 1 else max(1, PASS_VALUES // prod(model.output_shape) // samples)


def passes(start: int, stop: int, model: ModelConfig, samples: int) -> Iterator[tuple[int, int]]:
    """Split the places start..stop-1 so that the K samples of each part fit in memory."""
    size = most_images(model, samples) or max(1, stop - start)
    for first in range(start, stop, size):
        yield first, min(stop, first + size)


def objective(
    model: VAE,
    images: Tensor,
    noise: Tensor,
    beta: Tensor | float,
    free_bits: float,
    gradient: Gradient = "iwae",
    labels: Tensor | None = None,
) -> Outcome:
    """The objective that training minimises, with distortion and rate beside it.

    Args:
        model: the model.
        images: (B, C, H, W) in [0, 1].
        noise: (B, L), or (B, K, L) for the importance-weighted bound.
        beta: weight of the rate.
        free_bits: nats of each latent dimension that are not penalised.
        gradient: of the importance-weighted bound for the encoder.
        labels: classes of the images, (B,) int64, where the model takes them.
    """
    if noise.ndim == 3 and gradient == "dreg":
        return _doubly_reparameterized(model, images, noise, beta, labels)
    parameters, mean, log_variance = model(images, noise, labels)
    likelihoods = log_likelihood(images, parameters, *model.likelihood)
    kl = kl_to_prior(mean, log_variance)
    if noise.ndim == 2:
        minimised = beta_objective(-likelihoods, kl, beta=beta, free_bits=free_bits)
        if model.prior is None:
            return Outcome(minimised, -likelihoods, kl.sum(1))
        gains = log_gain(model.prior, reparameterize(mean, log_variance, noise))
        return Outcome(minimised - beta * gains, -likelihoods, kl.sum(1) - gains)
    latents = reparameterize(mean, log_variance, noise)
    gains = _gains(model, latents)
    ratios = log_prior_ratio(latents, noise, log_variance) + gains
    minimised = importance_objective(likelihoods, ratios, beta=beta)
    # the loss is reported at one draw: the first sample
    first = kl if kl.ndim == 2 else kl[:, 0]
    return Outcome(minimised, -likelihoods[:, 0], first.sum(1) - gains[:, 0])


def _gains(model: VAE, latents: Tensor) -> Tensor:
    """`log_gain` of the model's prior at latents (B, K, L); 0 for N(0, I)."""
    if model.prior is None:
        return latents.new_zeros(latents.shape[:2])
    return log_gain(model.prior, latents)


def _doubly_reparameterized(
    model: VAE, images: Tensor, noise: Tensor, beta: Tensor | float, labels: Tensor | None
) -> Outcome:
    """The importance-weighted bound, whose gradient for the encoder is reparameterized twice.

    The encoder moves z alone, not log q(z|x) at a given z, and of draw k by `dreg_share` of what
    the bound says.  Decoder and prior get the gradient of the bound itself.
    """
    mean, log_variance = model.encoder(images, labels)
    latents = reparameterize(mean, log_variance, noise)
    shares = list[Tensor]()
    if latents.requires_grad:
        latents.register_hook(lambda gradient: gradient * shares[0].unsqueeze(-1))
    several = None if labels is None else labels.repeat_interleave(noise.shape[1])
    parameters = model.decoder(latents.flatten(0, 1), several).unflatten(0, noise.shape[:2])
    likelihoods = log_likelihood(images, parameters, *model.likelihood)
    fixed = mean.detach(), log_variance.detach()
    of_latents = (latents - fixed[0].unsqueeze(1)) * torch.exp(-0.5 * fixed[1]).unsqueeze(1)
    gains = _gains(model, latents)
    ratios = log_prior_ratio(latents, of_latents, fixed[1]) + gains
    minimised = importance_objective(likelihoods, ratios, beta=beta)
    shares.append(dreg_share((likelihoods + beta * ratios).detach(), beta))
    return Outcome(minimised, -likelihoods[:, 0], kl_to_prior(*fixed).sum(1) - gains[:, 0])
