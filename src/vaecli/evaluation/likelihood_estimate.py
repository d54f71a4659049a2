"""The likelihood behind the bound: log p(x) of each image by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecli.data.mapped import Mapped
from vaecli.model.bounds import ImportanceWeights, log_likelihood
from vaecli.model.precision import inference
from vaecli.model.prior import FullMixture, Learned, log_gain, log_prior_ratio
from vaecli.model.vae import VAE, as_float, reparameterize
from vaecli.noise import SAMPLE_BLOCK, LevelNoise, SampleNoise
from vaecli.system.callbacks import Progress, no_progress
from vaecli.system.device import float64_home, in_float64

Pixels = NDArray[np.uint8] | Mapped | Tensor

AnyPrior = FullMixture | Learned

BATCH_SIZE = 256
PASS_VALUES = 1 << 19
"""Pixel values up to which twice as many latents are decoded at once: 0.83 of two threads' time."""


@dataclass(frozen=True)
class Likelihoods:
    """What K importance samples say about log p(x) of each image.

    Attributes:
        samples: K.
        nll: (N,) float64, negative importance-weighted bound, nats.
        effective: (N,) float64, effective sample size, 1 to K.
        nll_normal: the bound under N(0, I), from the same draws, where a mixture was given
            in its place.
    """

    samples: int
    nll: Tensor
    effective: Tensor
    nll_normal: Tensor | None = None


@inference()
def estimate(
    model: VAE,
    pixels: Pixels,
    samples: int,
    seed: int,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
    levels: LevelNoise | None = None,
    prior: AnyPrior | None = None,
    labels: Tensor | None = None,
) -> Likelihoods:
    """Log p(x) of each image by importance sampling, in blocks of constant memory.

    Args:
        model: the model, on any device.
        pixels: (N, C, H, W) uint8.
        samples: K.
        seed: of the noise.
        batch_size: about how many latents are decoded at once; of small images twice as many.
        progress: told (what, done, total) as it goes.
        levels: to draw each pixel black or white with, by place; None leaves it as it is.
        prior: to judge by; None for N(0, I).
        labels: classes of the images, (N,) int64, where the model takes them.
    """
    device, (height, width) = model.device, SAMPLE_BLOCK
    noise = SampleNoise(model.config.latents, seed=seed, purpose="evaluation", device=device)
    bounds, effective, under_normal = [], [], []
    small = 2 * batch_size * math.prod(model.config.output_shape) <= PASS_VALUES
    rows = max(1, batch_size * (1 + small) // width)
    replaced = isinstance(prior, FullMixture)  # a learned prior stands in nothing's place
    for band, (start, x) in enumerate(floats(pixels, height, device, levels)):
        y = None if labels is None else labels[start : start + len(x)]
        evidence = model.encoder(x, y)
        weights = ImportanceWeights(len(x), float64_home(device))
        normal = ImportanceWeights(len(x), float64_home(device))
        for column in range(math.ceil(samples / width)):
            count = min(width, samples - column * width)
            block = noise.block(band, column)[: len(x), :count]
            part = [
                log_weights(
                    model,
                    x[row],
                    tuple(part[row] for part in evidence),
                    block[row],
                    prior,
                    None if y is None else y[row],
                )
                for row in (slice(first, first + rows) for first in range(0, len(x), rows))
            ]
            found, gains = (torch.cat(each) for each in zip(*part, strict=True))
            weights.add(in_float64(found + gains))
            if replaced:
                normal.add(in_float64(found))
            done = start * samples + len(x) * (column * width + count)
            progress("likelihood", done, len(pixels) * samples)
        bounds.append(weights.bound().cpu())
        effective.append(weights.effective_samples().cpu())
        if replaced:
            under_normal.append(normal.bound().cpu())
    return Likelihoods(
        samples,
        -torch.cat(bounds),
        torch.cat(effective),
        -torch.cat(under_normal) if under_normal else None,
    )


def log_weights(
    model: VAE,
    images: Tensor,
    evidence: tuple[Tensor, ...],
    noise: Tensor,
    prior: AnyPrior | None = None,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log p(x|z) N(z; 0, I) / q(z|x) at the latents that `noise` (B, K, L) draws, and the gain.

    The sum of both, each (B, K) nats, is the log weight under p(z).

    Args:
        model: decodes the latents.
        images: (B, C, H, W) in [0, 1].
        evidence: what its encoder gives for the images.
        noise: standard normal.
        prior: p(z), if that is not N(0, I).
        labels: classes of the images, (B,) int64, where the model takes them.
    """
    parameters, mean, log_variance = model.decode_draws(evidence, noise, labels)
    latents = reparameterize(mean, log_variance, noise)
    ratios = log_prior_ratio(latents, noise, log_variance)
    found = log_likelihood(images, parameters, *model.likelihood) + ratios
    return found, torch.zeros_like(found) if prior is None else log_gain(prior, latents)


def floats(
    pixels: Pixels,
    batch_size: int,
    device: torch.device,
    levels: LevelNoise | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """As `batches`, with the images as floats in [0, 1] on `device`.

    With `levels`, each pixel is drawn black or white, by place.
    """
    for start, batch in batches(pixels, batch_size):
        batch = batch.to(device)
        yield start, as_float(batch if levels is None else levels.binarize(batch, start))


def batches(pixels: Pixels, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Pairs of a start index and the images from there on, in order, the short last one too."""
    for start in range(0, len(pixels), batch_size):
        yield start, torch.as_tensor(pixels[start : start + batch_size])
