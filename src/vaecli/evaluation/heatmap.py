"""Where in an image a model is surprised, compared with what held-out images show.

Axes: N images, C channels, H height, W width.  In numpy, as everything that `reconstruct` needs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vaecli.data.dataset import Images
from vaecli.data.labels import Labels, of_images
from vaecli.data.pixels import Bytes, as_float
from vaecli.evaluation.generation import Runner, batch_size, encode, mean_image
from vaecli.model.numpy_likelihoods import PIXELS
from vaecli.model.numpy_prior import quiet
from vaecli.runs.held_out import Surprise
from vaecli.system.threads import in_order

Floats = NDArray[np.float32]

MOST_IMAGES = 2000
MOST_VALUES = 1 << 22
"""Pixels of held-out images that are measured at most: 16 MiB as float32."""
SMOOTHING = 1 / 28
"""Standard deviation of the smoothing, as a share of the longer side: a pixel of a digit."""
QUIET, LOUD = 0.5, 0.99
"""Shares of held-out images that stay below the heat 0 and 1 everywhere."""


def surprise(
    runner: Runner, pixels: Bytes, noise: Floats | None = None, labels: Labels | None = None
) -> Floats:
    """How surprised the model is at each pixel, smoothed: (N, H, W) nats.

    ::

        surprise = -log p(x|z), summed over channels
                   less the entropy of x, if p is a Bernoulli: no model avoids it at a grey pixel

    Args:
        runner: the model.
        pixels: (N, C, H, W) of the model's shape.
        noise: (N, L) to draw z from q(z|x); without it, z is the mean.
        labels: places of classes, (N,), where the model takes them.
    """
    return reconstruct(runner, pixels, noise=noise, labels=labels)[1]


def reconstruct(
    runner: Runner, pixels: Bytes, *, noise: Floats | None = None, labels: Labels | None = None
) -> tuple[Bytes, Floats]:
    """Images as generation.py reconstructs them, and `surprise` at the same latents."""
    latents = encode(runner, pixels, noise=noise, labels=labels)
    step = batch_size(runner.config)
    found, maps = [], []
    for start in range(0, len(pixels), step):
        rows = slice(start, start + step)
        parameters = runner.decode(latents[rows], None if labels is None else labels[rows])
        found.append(mean_image(runner, parameters))
        maps.append(_surprise(runner, as_float(pixels[rows]), parameters))
    return np.concatenate(found), np.concatenate(maps)


@quiet()
def _surprise(runner: Runner, images: Floats, parameters: Floats) -> Floats:
    likelihood = runner.config.likelihood
    found = -PIXELS[likelihood].log_prob(images, parameters, runner.log_scale)
    if likelihood == "bernoulli":
        found = found - _entropy(images)
    return smooth(found.sum(1))


def _entropy(x: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        each = -(x * np.log(x) + (1 - x) * np.log1p(-x))
    entropy: Floats = np.nan_to_num(each)
    return entropy


def smooth(maps: Floats) -> Floats:
    """Blur maps (N, H, W) by a Gaussian; the edge goes on beyond itself."""
    deviation = SMOOTHING * max(maps.shape[1:])
    reach = math.ceil(3 * deviation)
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / deviation)).astype("f4")
    for axis in (1, 2):
        margins = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded, size = np.pad(maps, margins, "edge"), maps.shape[axis]
        maps = sum(
            weight * padded.take(range(start, start + size), axis)
            for start, weight in enumerate(kernel / kernel.sum())
        )
    return maps


def measure(runner: Runner, images: Images) -> Surprise:
    """How surprised a model is at held-out images; at some of them, if there are very many."""
    size = math.prod(runner.config.image_shape[1:])
    images = images.spread(max(1, min(MOST_IMAGES, MOST_VALUES // size)))
    step, labels = batch_size(runner.config), of_images(runner.config, images)

    def work(start: int) -> Floats:
        given = None if labels is None else labels[start : start + step]
        return surprise(runner, next(images[start : start + step].parts()), labels=given)

    parts = in_order(work, range(0, len(images), step), runner.workers)
    maps = np.concatenate([part for _, part in parts])
    mean = maps.mean(0, dtype=np.float64).astype(np.float32)
    return Surprise(mean, np.sort((maps - mean).max((1, 2))))


def heat(maps: Floats, usual: Surprise) -> Floats:
    """Surprise (N, H, W) on a scale from 0 to 1, set by the hottest place of each held-out image.

    Half of the held-out images are 0 everywhere, and one in a hundred reaches 1 somewhere.
    """
    low, high = np.quantile(usual.peaks, (QUIET, LOUD))
    scaled = (maps - usual.mean - low) / max(high - low, np.finfo(np.float32).tiny)
    result: Floats = np.nan_to_num(scaled, nan=1).clip(0, 1).astype(np.float32)
    return result
