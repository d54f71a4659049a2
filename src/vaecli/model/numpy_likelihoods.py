"""Log probability, mean and draws of a pixel in numpy, for commands that do without torch.

Formulas and sources are in `likelihoods.py`, which also trains; a test compares the two.  x is a
pixel in [0, 1], o the decoder's output for it, all arrays of one shape; for a mixture o has more
numbers per pixel (..., P, H, W), and log p one for all channels (..., 1, H, W).  A draw is made
from u, uniform between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecli import philox
from vaecli.config import MIXTURE_COMPONENTS, Likelihood, mixture_outputs
from vaecli.model.numpy_activations import sigmoid
from vaecli.model.numpy_prior import quiet

Floats = NDArray[Any]

LEVELS = 256
HALF_LEVEL = 0.5 / (LEVELS - 1)
"""Half the distance of two grey levels on the scale from 0 to 1."""
LOG_SCALE_FLOOR = -7.0
"""Lower bound of the log scale; see `distribution.learned_scale`."""
MAX_LOGIT = 16.0
"""Bound of the continuous Bernoulli's logit: where float32 rounds the probability to 0 or 1.

Without one the density at exactly black pixels grows for ever, and is all that is learned.
"""
NEAR_ZERO = 0.1
"""Where the continuous Bernoulli is computed by a series."""


class Pixel(NamedTuple):
    """A likelihood of a pixel.

    Attributes:
        log_prob: x, o and the log scale to log p(x|z) in nats.
        mean: o and the log scale to E[x|z].
        draw: o, u and the log scale to a draw of x, which may lie outside of [0, 1] and between
            two levels: the nearest level is meant.
    """

    log_prob: Callable[[Floats, Floats, float | None], Floats]
    mean: Callable[[Floats, float | None], Floats]
    draw: Callable[[Floats, Floats, float | None], Floats]


def _softplus(x: Floats) -> Floats:
    # a seventh of the time of np.logaddexp, which is not vectorised
    result: Floats = np.asarray(-np.abs(x))
    np.log1p(np.exp(result, out=result), out=result)
    result += np.maximum(x, np.float32(0))
    return result


def _scale(log_scale: Floats | float | None) -> Floats:
    assert log_scale is not None, "this likelihood has a learned scale"
    above = np.asarray(log_scale, np.float32) - np.float32(LOG_SCALE_FLOOR)
    scale: Floats = np.exp(LOG_SCALE_FLOOR + _softplus(above))
    return scale


def _bernoulli_log_prob(x: Floats, logits: Floats, log_scale: float | None) -> Floats:
    result: Floats = x * logits - _softplus(logits)
    return result


def _bernoulli_mean(logits: Floats, log_scale: float | None) -> Floats:
    return sigmoid(logits)


def _bernoulli_draw(logits: Floats, u: Floats, log_scale: float | None) -> Floats:
    """1 with probability S(o), else 0."""
    return (u < sigmoid(logits)).astype(np.float32)


def _bounded(output: Floats) -> Floats:
    bounded: Floats = output / (1 + np.abs(output) / MAX_LOGIT)
    return bounded


def _continuous_bernoulli_log_prob(x: Floats, output: Floats, log_scale: float | None) -> Floats:
    logits = _bounded(output)
    h = np.abs(0.5 * logits)
    near = h < NEAR_ZERO
    square, large = np.square(h), np.where(near, np.float32(1), h)
    series = square * (1 / 6 - square * (1 / 180 - square / 2835))
    direct = large - np.log(2 * large) + np.log1p(-np.exp(-2 * large))
    result: Floats = (x - 0.5) * logits - np.where(near, series, direct)
    return result


def _continuous_bernoulli_mean(output: Floats, log_scale: float | None) -> Floats:
    h = 0.5 * _bounded(output)
    near = np.abs(h) < NEAR_ZERO
    square, large = np.square(h), np.where(near, np.float32(1), h)
    series = h * (1 / 6 - square * (1 / 90 - square / 945))
    result: Floats = 0.5 + np.where(near, series, 0.5 / np.tanh(large) - 0.5 / large)
    return result


def _continuous_bernoulli_draw(output: Floats, u: Floats, log_scale: float | None) -> Floats:
    """The inverse of the distribution function: log(1 + u (e^l - 1)) / l, with the logit l.

    Source: Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845
    """
    logits = _bounded(output)
    rising = logits > 0  # 1 - x has the logit -l, and e^-|l| does not overflow
    falling = -np.abs(logits).clip(min=1e-3)
    drawn: Floats = np.log1p(u * np.expm1(falling)) / falling
    return np.where(rising, 1 - drawn, drawn)


def _gaussian_log_prob(x: Floats, mean: Floats, log_scale: float | None) -> Floats:
    scale = _scale(log_scale)
    constant = np.log(scale) + np.float32(0.5 * math.log(2 * math.pi))
    result: Floats = -0.5 * np.square((x - mean) / scale) - constant
    return result


def _gaussian_mean(mean: Floats, log_scale: float | None) -> Floats:
    return mean


def _gaussian_draw(mean: Floats, u: Floats, log_scale: float | None) -> Floats:
    drawn: Floats = mean + _scale(log_scale) * philox.quantile(u)
    return drawn


def _logistic_log_prob(x: Floats, location: Floats, log_scale: float | None) -> Floats:
    scale = _scale(log_scale)
    centred = x - location
    below_upper = -_softplus(-(centred + HALF_LEVEL) / scale)
    above_lower = -_softplus(-(HALF_LEVEL - centred) / scale)
    inner = below_upper + above_lower + np.log(-np.expm1(-2 * HALF_LEVEL / scale))
    white = np.where(x > 1 - HALF_LEVEL, above_lower, inner)
    return np.where(x < HALF_LEVEL, below_upper, white)


def _logistic_mean(location: Floats, log_scale: float | None) -> Floats:
    scale = _scale(log_scale)
    mean: Floats = scale * (_softplus(location / scale) - _softplus((location - 1) / scale))
    return mean


def _logit(u: Floats) -> Floats:
    logit: Floats = np.log(u) - np.log1p(-u)
    return logit


def _logistic_draw(location: Floats, u: Floats, log_scale: float | None) -> Floats:
    drawn: Floats = location + _scale(log_scale) * _logit(u)
    return drawn


def _split_mixture(outputs: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Logits, locations, log scales and coefficients, as `logistic_mixture.Parts`, of (P, ...)."""
    channels = 3 if len(outputs) == mixture_outputs(3) else 1
    each = outputs.reshape(-1, MIXTURE_COMPONENTS, *outputs.shape[1:])
    ends = np.cumsum([1, channels, channels])
    logits, locations, log_scales, coefficients = np.split(each, ends)
    return logits[0], locations, log_scales, np.tanh(coefficients)


def _coupled(location: Floats, c: Floats, values: Sequence[Floats] | Floats) -> Floats:
    """The location of the next channel, given the values of those before it."""
    if len(values) == 1:
        location = location + c[0] * values[0]
    elif len(values) == 2:
        location = location + c[1] * values[0] + c[2] * values[1]
    return location


@quiet()
def _mixture_log_prob(x: Floats, outputs: Floats, log_scale: float | None) -> Floats:
    logits, locations, log_scales, c = _split_mixture(np.moveaxis(outputs, -3, 0))
    values = 2 * np.moveaxis(x, -3, 0) - 1
    scales, half_level = _scale(log_scales), 2 * HALF_LEVEL
    each = logits - np.logaddexp.reduce(logits, 0)
    for channel, value in enumerate(values):
        location = _coupled(locations[channel], c, values[:channel])
        centred, half = (value - location) / scales[channel], half_level / scales[channel]
        below_upper, above_lower = -_softplus(-centred - half), -_softplus(centred - half)
        inner = below_upper + above_lower + np.log(-np.expm1(-2 * half))
        white = np.where(value > 1 - half_level, above_lower, inner)
        each = each + np.where(value < half_level - 1, below_upper, white)
    result: Floats = np.logaddexp.reduce(each, 0)
    return result[..., None, :, :]


@quiet()
def _mixture_mean(outputs: Floats, log_scale: float | None) -> Floats:
    logits, locations, log_scales, c = _split_mixture(np.moveaxis(outputs, -3, 0))
    scales = _scale(log_scales)
    shares = np.exp(logits - np.logaddexp.reduce(logits, 0))
    means: list[Floats] = []
    for location, scale in zip(locations, scales, strict=True):
        location = _coupled(location, c, means)
        upper = _softplus((location + 1) / scale)
        means.append(scale * (upper - _softplus((location - 1) / scale)) - 1)
    weighted = (np.stack(means) * shares).sum(1)
    return np.moveaxis(np.float32(0.5) + np.float32(0.5) * weighted, 0, -3)


def _mixture_draw(outputs: Floats, u: Floats, log_scale: float | None) -> Floats:
    """A component by the first u of a pixel, then channel by channel the level of a logistic."""
    logits, locations, log_scales, c = _split_mixture(np.moveaxis(outputs, -3, 0))
    choosing, *others = np.moveaxis(u, -3, 0)
    shares = np.exp(logits - np.logaddexp.reduce(logits, 0)).cumsum(0)
    chosen = (choosing >= shares[:-1]).sum(0)[None, None]

    def of_component(values: Floats) -> Floats:
        return np.take_along_axis(values, chosen, 1)[:, 0]

    c, drawn = of_component(c), list[Floats]()
    pairs = zip(of_component(locations), _scale(of_component(log_scales)), others, strict=True)
    for location, scale, each in pairs:
        value = _coupled(location, c, drawn) + scale * _logit(each)
        levels = (0.5 + 0.5 * value.clip(-1, 1)) * (LEVELS - 1)
        drawn.append(2 * np.rint(levels) / (LEVELS - 1) - 1)
    return np.moveaxis(0.5 + 0.5 * np.stack(drawn), 0, -3)


def uniforms(likelihood: Likelihood, channels: int) -> int:
    """How many u each position of an image needs."""
    return channels + (likelihood == "logistic-mixture")


PIXELS: Mapping[Likelihood, Pixel] = {
    "bernoulli": Pixel(_bernoulli_log_prob, _bernoulli_mean, _bernoulli_draw),
    "continuous-bernoulli": Pixel(
        _continuous_bernoulli_log_prob, _continuous_bernoulli_mean, _continuous_bernoulli_draw
    ),
    "gaussian": Pixel(_gaussian_log_prob, _gaussian_mean, _gaussian_draw),
    "logistic": Pixel(_logistic_log_prob, _logistic_mean, _logistic_draw),
    "logistic-mixture": Pixel(_mixture_log_prob, _mixture_mean, _mixture_draw),
}
