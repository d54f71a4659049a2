"""Distributions p(x|z) of a pixel, as values: the option's name selects a row of `LIKELIHOODS`.

Everything here works pixel by pixel on tensors of any one shape `...`: pixels x in [0, 1] in
steps of 1/255, the decoder's output, and for some a learned log scale (a number).  `loss.py`
sums over pixels.  Formulas and sources are in docs/maths.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vaecli.config import Likelihood

LEVELS = 256
HALF_LEVEL = 0.5 / (LEVELS - 1)
"""Half the distance of two grey levels on the scale from 0 to 1."""
LOG_SCALE_FLOOR = -7.0
"""Scales stay above e^-7, a quarter of a grey level, or constant images would send them to 0."""
MAX_LOGIT = 16.0
"""Bound of the continuous Bernoulli's logit: where float32 rounds the probability to 0 or 1.

Without one the density at exactly black pixels grows for ever, and is all that is learned.
"""
_NEAR_ZERO = 0.1


@dataclass(frozen=True)
class Distribution:
    """One likelihood.

    Attributes:
        log_prob: (x, output, log_scale) to log p(x) in nats, elementwise.
        mean: (output, log_scale) to E[x|z], what a picture shows.
        sample: (output, log_scale, generator) to a draw of x.
        output_bias: (mean image, number of images) to the output that starts at that mean.
        log_scale: where the learned log scale starts; None where there is none.
        levels: whether it is a probability of the 256 grey levels.
    """

    log_prob: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    mean: Callable[[Tensor, Tensor | None], Tensor]
    sample: Callable[[Tensor, Tensor | None, torch.Generator | None], Tensor]
    output_bias: Callable[[Tensor, int], Tensor]
    log_scale: float | None = None
    levels: bool = False


def learned_scale(log_scale: Tensor | None) -> Tensor:
    """The scale s of a log scale, softly kept above e^-7 (as Rybkin et al. 2021 do)."""
    assert log_scale is not None, "this likelihood has a learned scale"
    return torch.exp(LOG_SCALE_FLOOR + functional.softplus(log_scale - LOG_SCALE_FLOOR))


# --- bernoulli ---------------------------------------------------------------------------------


def _bernoulli_log_prob(x: Tensor, logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """x*l - softplus(l): never the log of a sigmoid, which loses its gradient where it saturates.

    For grey x this is the grey-scale BCE, not a normalised likelihood.
    """
    return x * logits - functional.softplus(logits)


def _bernoulli_mean(logits: Tensor, log_scale: Tensor | None) -> Tensor:
    return torch.sigmoid(logits)


def _bernoulli_sample(
    logits: Tensor, log_scale: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    return (_uniform(logits, generator) < torch.sigmoid(logits)).to(logits.dtype)


def _bernoulli_output_bias(mean_image: Tensor, count: int) -> Tensor:
    return torch.logit(_smoothed(mean_image, count))


# --- continuous Bernoulli (Loaiza-Ganem & Cunningham 2019) -------------------------------------


def _continuous_bernoulli_log_prob(x: Tensor, logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """x*l - A(l) with A(l) = log of the integral of e^(l t) over 0 < t < 1.

    A(l) = l/2 + log(sinh(h)/h) at h = l/2: the second part is even, and has a series near 0,
    where the paper's normalizing constant is 0/0 (at probability 1/2).
    """
    logits = bounded(logits)
    return (x - 0.5) * logits - _log_sinh_ratio(0.5 * logits)


def bounded(output: Tensor) -> Tensor:
    """The logit of a continuous Bernoulli: l = o / (1 + |o|/16), between -16 and 16."""
    return output / (1 + output.abs() / MAX_LOGIT)


def _log_sinh_ratio(h: Tensor) -> Tensor:
    """log(sinh(h)/h), finite and with its gradient for every h."""
    near = h.abs() < _NEAR_ZERO
    # the branch not taken must be finite too, or its gradient is NaN
    small, large = torch.where(near, h, 0.0), torch.where(near, 1.0, h.abs())
    square = small.square()
    series = square * (1 / 6 - square * (1 / 180 - square / 2835))
    direct = large - torch.log(2 * large) + torch.log1p(-torch.exp(-2 * large))
    return torch.where(near, series, direct)


def _continuous_bernoulli_mean(logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """1/2 + (coth(h) - 1/h)/2 at h = l/2, the derivative of A."""
    h = 0.5 * bounded(logits)
    near = h.abs() < _NEAR_ZERO
    large = torch.where(near, 1.0, h)
    square = h.square()
    series = h * (1 / 6 - square * (1 / 90 - square / 945))
    return 0.5 + torch.where(near, series, 0.5 / torch.tanh(large) - 0.5 / large)


def _continuous_bernoulli_sample(
    logits: Tensor, log_scale: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Inverse of the distribution function at a uniform u: log(1 + u (e^l - 1)) / l."""
    logits, u = bounded(logits), _uniform(logits, generator)
    rising = logits > 0  # 1 - x has the logit -l, and e^-|l| does not overflow
    a = -logits.abs().clamp(min=1e-3)
    drawn = torch.log1p(u * torch.expm1(a)) / a
    drawn = torch.where(logits.abs() < 1e-3, u, drawn)
    return torch.where(rising, 1 - drawn, drawn).clamp(0, 1)


def _continuous_bernoulli_output_bias(mean_image: Tensor, count: int) -> Tensor:
    """Solved by bisection: the mean has no inverse in closed form."""
    target = _smoothed(mean_image, count)
    # where a pixel is black in all training images, it must start where it can still learn
    low, high = torch.full_like(target, -2 * MAX_LOGIT), torch.full_like(target, 2 * MAX_LOGIT)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = _continuous_bernoulli_mean(middle, None) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


# --- Gaussian with one learned sigma (Rybkin et al. 2021) --------------------------------------


def _gaussian_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor | None) -> Tensor:
    """-((x - mean)/s)^2 / 2 - log s - log(2 pi)/2."""
    scale = learned_scale(log_scale)
    return -0.5 * ((x - mean) / scale).square() - torch.log(scale) - 0.5 * math.log(2 * math.pi)


def _gaussian_mean(mean: Tensor, log_scale: Tensor | None) -> Tensor:
    return mean


def _gaussian_sample(
    mean: Tensor, log_scale: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + learned_scale(log_scale) * noise


def _gaussian_output_bias(mean_image: Tensor, count: int) -> Tensor:
    return mean_image.clone()


# --- logistic over 256 levels (Kingma et al. 2016; Salimans et al. 2017) -----------------------


def _logistic_log_prob(x: Tensor, location: Tensor, log_scale: Tensor | None) -> Tensor:
    """Log of the logistic mass between x - 1/510 and x + 1/510; the end levels take the tails.

    With a, b the standardised ends: log(S(b) - S(a)) = log S(b) + log S(-a) + log(1 - e^(a-b)),
    S the sigmoid, which neither cancels nor underflows however far x is from the location.
    """
    scale = learned_scale(log_scale)
    centred = x - location
    below_upper = functional.logsigmoid((centred + HALF_LEVEL) / scale)
    above_lower = functional.logsigmoid((HALF_LEVEL - centred) / scale)
    width = torch.log(-torch.expm1(-2 * HALF_LEVEL / scale))
    black, white = x < HALF_LEVEL, x > 1 - HALF_LEVEL
    inner = below_upper + above_lower + width
    return torch.where(black, below_upper, torch.where(white, above_lower, inner))


def _logistic_mean(location: Tensor, log_scale: Tensor | None) -> Tensor:
    """Mean of the logistic clipped to [0, 1]: s (softplus(m/s) - softplus((m - 1)/s)).

    The mean over the levels is the midpoint sum of this integral, and agrees with it to a
    hundredth of a level for scales above one.
    """
    scale = learned_scale(log_scale)
    upper = functional.softplus(location / scale)
    return scale * (upper - functional.softplus((location - 1) / scale))


def _logistic_sample(
    location: Tensor, log_scale: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    u = _uniform(location, generator).clamp(1e-7, 1 - 1e-7)
    drawn = location + learned_scale(log_scale) * torch.logit(u)
    return (drawn.clamp(0, 1) * (LEVELS - 1)).round() / (LEVELS - 1)


# -----------------------------------------------------------------------------------------------


def _smoothed(mean_image: Tensor, count: int) -> Tensor:
    """The mean image with half an image of either colour added: never exactly black or white."""
    return (mean_image * count + 0.5) / (count + 1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


LIKELIHOODS: Mapping[Likelihood, Distribution] = {
    "bernoulli": Distribution(
        _bernoulli_log_prob, _bernoulli_mean, _bernoulli_sample, _bernoulli_output_bias
    ),
    "continuous-bernoulli": Distribution(
        _continuous_bernoulli_log_prob,
        _continuous_bernoulli_mean,
        _continuous_bernoulli_sample,
        _continuous_bernoulli_output_bias,
    ),
    "gaussian": Distribution(
        _gaussian_log_prob, _gaussian_mean, _gaussian_sample, _gaussian_output_bias, log_scale=-1.0
    ),
    "logistic": Distribution(
        _logistic_log_prob,
        _logistic_mean,
        _logistic_sample,
        _gaussian_output_bias,
        log_scale=-2.0,
        levels=True,
    ),
}
