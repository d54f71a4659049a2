"""Decodes reconstructions and samples to uint8 pixels."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vaecli import philox
from vaecli.config import ModelConfig
from vaecli.data.labels import Labels, drawn
from vaecli.data.pixels import Bytes, as_float, to_uint8
from vaecli.model.numpy_likelihoods import PIXELS, uniforms
from vaecli.model.numpy_prior import Prior, quiet, rate
from vaecli.system.threads import in_order

Floats = NDArray[np.float32]

BATCH_SIZE = 256
BATCH_VALUES = 1 << 18
"""Pixels of a batch at most: each of several threads holds one, 1 MiB as float32."""

FEW_BATCHES = 4
"""So many are decoded by one thread: two took as long, and a tenth more processor time."""


class Runner(Protocol):
    """A trained model that takes and gives arrays: `NumpyVAE`, or torch behind `TorchRunner`.

    Attributes:
        config: of the model.
        workers: how many threads may use it at once; None for one on each core.
    """

    config: ModelConfig
    workers: int | None

    @property
    def prior(self) -> Prior:
        """The model's own p(z)."""
        ...

    @property
    def log_scale(self) -> float | None:
        """The learned log scale of p(x|z), for a likelihood that has one."""
        ...

    def encode(
        self, images: Floats, noise: Floats | None = None, labels: Labels | None = None
    ) -> tuple[Floats, Floats]:
        """Images (B, C, H, W) in [0, 1] to mean and log variance of q(z|x), each (B, L).

        With `noise` (B, L), those of each group of a grid given the groups drawn above it; with the
        places of classes (B,) where the model takes them.
        """
        ...

    def decode(self, latents: Floats, labels: Labels | None = None) -> Floats:
        """Latents (B, L) to pixel parameters of p(x|z), (B, P, H, W)."""
        ...


def batch_size(config: ModelConfig) -> int:
    """Images that are encoded or decoded at once; the fewer the larger they are."""
    return max(1, min(BATCH_SIZE, BATCH_VALUES // math.prod(config.image_shape)))


def decode(
    runner: Runner, latents: Floats, labels: Labels | None = None, *, pixel_seed: int | None = None
) -> Bytes:
    """The mean image of p(x|z), or a draw, for latents (N, L), as (N, C, H, W) uint8.

    Args:
        runner: the model.
        latents: to decode.
        labels: places of their classes, (N,), where the model takes them; here and below.
        pixel_seed: draw each pixel from p(x|z) by this seed instead of taking its mean.
    """
    latents = np.ascontiguousarray(latents, np.float32)
    found = np.empty((len(latents), *runner.config.image_shape), np.uint8)
    size = batch_size(runner.config)

    def work(start: int) -> Bytes:
        rows = slice(start, start + size)
        given = None if labels is None else labels[rows]
        parameters = runner.decode(latents[rows], given)
        if pixel_seed is None:
            return mean_image(runner, parameters)
        return drawn_image(runner, parameters, start, pixel_seed)

    starts = range(0, len(latents), size)
    workers = 1 if len(starts) <= FEW_BATCHES else runner.workers
    for start, pixels in in_order(work, starts, workers):
        found[start : start + size] = pixels
    return found


@quiet()
def mean_image(runner: Runner, parameters: Floats) -> Bytes:
    """The mean of p(x|z) for its parameters (B, P, H, W), as (B, C, H, W) uint8."""
    mean = PIXELS[runner.config.likelihood].mean
    return to_uint8(mean(parameters, runner.log_scale))


@quiet()
def drawn_image(runner: Runner, parameters: Floats, start: int, seed: int) -> Bytes:
    """A draw of p(x|z) for its parameters (B, P, H, W), as (B, C, H, W) uint8.

    Args:
        runner: the model.
        parameters: what the decoder gives.
        start: the place of the first image, on which and the seed its draw depends alone.
        seed: of the draws.
    """
    likelihood, (channels, *size) = runner.config.likelihood, runner.config.image_shape
    shape = (uniforms(likelihood, channels), *size)
    stop = start + len(parameters)
    u = philox.uniform(math.prod(shape), start, stop, seed=seed, purpose="pixels")
    draw = PIXELS[likelihood].draw
    return to_uint8(draw(parameters, u.reshape(-1, *shape), runner.log_scale))


@quiet()
def draw_latents(mean: Floats, log_variance: Floats, noise: Floats) -> Floats:
    """Z = mean + std noise of q(z|x), all (N, L)."""
    latents: Floats = mean + np.exp(np.float32(0.5) * log_variance) * noise
    return latents


def reconstruct(
    runner: Runner,
    pixels: Bytes,
    *,
    noise: Floats | None = None,
    labels: Labels | None = None,
) -> Bytes:
    """Encode and decode images (N, C, H, W) uint8; returns the same shape and type.

    Args:
        runner: the model.
        pixels: images of the model's shape.
        noise: (N, L) to draw the latent from q(z|x) instead of taking its mean.
        labels: as for `decode`.
    """
    return decode(runner, encode(runner, pixels, noise=noise, labels=labels), labels)


def encode(
    runner: Runner, pixels: Bytes, *, noise: Floats | None = None, labels: Labels | None = None
) -> Floats:
    """The latents (N, L) of images; `noise` and `labels` as for `reconstruct`."""
    latents, log_variance = runner.encode(as_float(pixels), noise, labels)
    return latents if noise is None else draw_latents(latents, log_variance, noise)


@quiet()
def score(
    runner: Runner, pixels: Bytes, noise: Floats, prior: Prior | None = None
) -> list[dict[str, float]]:
    """Loss, distortion and rate of images (N, C, H, W) uint8, each at one latent, in nats.

    Args:
        runner: the model.
        pixels: images of its shape.
        noise: (N, L), which draws the latents.
        prior: to judge by instead of the model's own.
    """
    prior = prior or runner.prior
    images = as_float(pixels)
    mean, log_variance = runner.encode(images, noise)
    latents = draw_latents(mean, log_variance, noise)
    parameters = runner.decode(latents)
    log_prob = PIXELS[runner.config.likelihood].log_prob(images, parameters, runner.log_scale)
    distortions = -log_prob.sum((1, 2, 3), dtype=np.float64)
    rates = rate(prior, mean, log_variance, latents)
    return [
        {"loss": distortion + rate, "distortion": distortion, "rate": rate}
        for distortion, rate in zip(distortions.tolist(), rates.tolist(), strict=True)
    ]


def noise(runner: Runner, start: int, stop: int, *, seed: int, purpose: str) -> Floats:
    """Standard normal rows (stop - start, L) of these places."""
    width: int = runner.config.latents
    return philox.normal(width, start, stop, seed=seed, purpose=purpose)


def draw(runner: Runner, count: int, *, seed: int, temperature: float = 1.0) -> Floats:
    """Draw latents (count, L) from the model's prior, its noise multiplied by `temperature`."""
    return runner.prior.draw(count, seed=seed, temperature=temperature)


def sample(
    runner: Runner,
    count: int,
    *,
    seed: int,
    temperature: float = 1.0,
    labels: Labels | None = None,
) -> Bytes:
    """Decode `count` draws of `draw`; (count, C, H, W) uint8.

    A model that takes classes gets those of `labels`, (count,), or some as frequent as in training.
    """
    latents = draw(runner, count, seed=seed, temperature=temperature)
    if labels is None:
        labels = drawn(runner.config, count, seed=seed)
    return decode(runner, latents, labels)
