"""Distributions p(x|z) of a pixel: the name of an option selects a row of `LIKELIHOODS`.

Every function here is elementwise: it takes and returns tensors of one shape, written `...`.
`logistic_mixture.py` has the one that is not.
x is a pixel in [0, 1] in steps of 1/255, o the decoder's output for it, S the sigmoid, and s the
learned scale of `learned_scale`.  `bounds.py` sums over pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from vaecli.config import Likelihood
from vaecli.model.distribution import Distribution, learned_scale, smoothed
from vaecli.model.logistic_mixture import LOGISTIC_MIXTURE
from vaecli.model.numpy_likelihoods import HALF_LEVEL, MAX_LOGIT, NEAR_ZERO

_FACTORS = 64


# --- bernoulli ---------------------------------------------------------------------------------


def _bernoulli_log_prob(x: Tensor, logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """Bernoulli log likelihood on the logit o, exact where log(S(o)) would saturate.

    ::

        log p(x|z) = x log S(o) + (1 - x) log(1 - S(o)) = x o - softplus(o)

    For grey x this is the grey-scale binary cross-entropy, not a normalised likelihood.

    Source: Kingma & Welling 2014, appendix C.1, https://arxiv.org/abs/1312.6114

    Example:
        >>> _bernoulli_log_prob(torch.tensor([1.0, 0.0]), torch.tensor([-200.0, 0.0]), None)
        tensor([-200.0000,   -0.6931])
    """
    return x * logits - functional.softplus(logits)


def _bernoulli_summed(x: Tensor, logits: Tensor) -> Tensor:
    """The sum of `_bernoulli_log_prob` over the last axis, in half the time.

    ::

        softplus(o)       = max(o, 0) - log S(|o|)
        sum of log S(|o|) = log of the product of S(|o|)

    S(|o|) lies between 1/2 and 1, so the product of 64 of them is no subnormal number.

    Example:
        >>> _bernoulli_summed(torch.ones(100), torch.zeros(100)) / math.log(2)
        tensor(-100.)
    """
    each = x * logits  # the only memory that is needed
    result = each.sum(-1)
    result -= torch.clamp(logits, min=0, out=each).sum(-1)
    return result.add_(_summed_logs(torch.abs(logits, out=each).sigmoid_()))


def _summed_logs(factors: Tensor) -> Tensor:
    """The sum of the logs of numbers between 1/2 and 1, over the last axis."""
    whole = factors.shape[-1] // _FACTORS * _FACTORS
    blocks: Tensor = factors[..., :whole].unflatten(-1, (-1, _FACTORS))
    rest = factors[..., whole:].prod(-1)
    return blocks.prod(-1).log().sum(-1).add_(rest.log())


def _bernoulli_with_gradient(x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """`_bernoulli_summed`, and the derivative of `_bernoulli_log_prob` by o, written over o.

    ::

        d log p(x|z) / do = x - S(o)
        S(|o|)            = max(S(o), 1 - S(o))

    Example:
        >>> _bernoulli_with_gradient(torch.tensor([1.0, 0.0]), torch.zeros(2))
        (tensor(-1.3863), tensor([ 0.5000, -0.5000]))
    """
    each = x * logits
    result = each.sum(-1)
    result -= torch.clamp(logits, min=0, out=each).sum(-1)
    mean = logits.sigmoid_()
    result += _summed_logs(torch.maximum(mean, torch.sub(1, mean, out=each), out=each))
    return result, torch.sub(x, mean, out=mean)


def _bernoulli_mean(logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """E[x|z] = S(o)."""
    return torch.sigmoid(logits)


def _bernoulli_output_bias(mean_image: Tensor, count: int) -> Tensor:
    """The logit of the smoothed mean image."""
    return torch.logit(smoothed(mean_image, count))


# --- continuous Bernoulli -----------------------------------------------------------------------


def _continuous_bernoulli_log_prob(x: Tensor, logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """Continuous Bernoulli log density, without the paper's 0/0 at probability 1/2.

    With l = `bounded`(o) and h = l/2::

        log p(x|z) = x l - A(l)
        A(l)       = log of the integral of exp(l t) over 0 < t < 1 = h + log(sinh(h) / h)

    Source: Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845

    Example:
        At o = 0 the density is uniform:

        >>> _continuous_bernoulli_log_prob(torch.tensor([0.0, 1.0]), torch.zeros(2), None).exp()
        tensor([1., 1.])
    """
    logits = bounded(logits)
    return (x - 0.5) * logits - _log_sinh_ratio(0.5 * logits)


def bounded(output: Tensor) -> Tensor:
    """The logit of a continuous Bernoulli, between -16 and 16.

    ::

        l = o / (1 + |o| / 16)

    Example:
        >>> bounded(torch.tensor([0.0, 16.0, 1e6]))
        tensor([ 0.0000,  8.0000, 15.9997])
    """
    return output / (1 + output.abs() / MAX_LOGIT)


def _log_sinh_ratio(h: Tensor) -> Tensor:
    """log(sinh(h) / h), with a gradient for every h.

    ::

        |h| < 0.1:  h^2/6 - h^4/180 + h^6/2835
        else:       |h| - log(2 |h|) + log(1 - exp(-2 |h|))

    Example:
        >>> _log_sinh_ratio(torch.tensor([0.0, 1.0, 100.0]))
        tensor([ 0.0000,  0.1614, 94.7017])
    """
    near = h.abs() < NEAR_ZERO
    # the branch not taken must be finite too, or its gradient is NaN
    small, large = torch.where(near, h, 0.0), torch.where(near, 1.0, h.abs())
    square = small.square()
    series = square * (1 / 6 - square * (1 / 180 - square / 2835))
    direct = large - torch.log(2 * large) + torch.log1p(-torch.exp(-2 * large))
    return torch.where(near, series, direct)


def _continuous_bernoulli_mean(logits: Tensor, log_scale: Tensor | None) -> Tensor:
    """E[x|z], the derivative of A.

    With h = l/2::

        E[x|z] = 1/2 + (coth(h) - 1/h) / 2,  near 0:  1/2 + h/6 - h^3/90 + h^5/945

    Source: Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845

    Example:
        >>> _continuous_bernoulli_mean(torch.tensor([-4.0, 0.0, 4.0]), None)
        tensor([0.2700, 0.5000, 0.7300])
    """
    h = 0.5 * bounded(logits)
    near = h.abs() < NEAR_ZERO
    large = torch.where(near, 1.0, h)
    square = h.square()
    series = h * (1 / 6 - square * (1 / 90 - square / 945))
    return 0.5 + torch.where(near, series, 0.5 / torch.tanh(large) - 0.5 / large)


def _continuous_bernoulli_output_bias(mean_image: Tensor, count: int) -> Tensor:
    """The o whose mean is the smoothed mean image, by bisection: it has no closed form."""
    target = smoothed(mean_image, count)
    # a pixel that is black in all training images must start where it can still learn
    low, high = torch.full_like(target, -2 * MAX_LOGIT), torch.full_like(target, 2 * MAX_LOGIT)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = _continuous_bernoulli_mean(middle, None) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


# --- Gaussian ------------------------------------------------------------------------------------


def _gaussian_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor | None) -> Tensor:
    """Log density of a Gaussian with one learned scale for all pixels.

    ::

        log p(x|z) = -((x - o) / s)^2 / 2 - log s - log(2 pi) / 2

    Source: Rybkin et al. 2021, https://arxiv.org/abs/2006.13202

    Example:
        >>> _gaussian_log_prob(torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor(-1.0))
        tensor([0.0786])
    """
    scale = learned_scale(log_scale)
    return -0.5 * ((x - mean) / scale).square() - torch.log(scale) - 0.5 * math.log(2 * math.pi)


def _gaussian_mean(mean: Tensor, log_scale: Tensor | None) -> Tensor:
    """E[x|z] = o."""
    return mean


def _gaussian_output_bias(mean_image: Tensor, count: int) -> Tensor:
    """The mean image itself."""
    return mean_image.clone()


# --- logistic over 256 levels --------------------------------------------------------------------


def _logistic_log_prob(x: Tensor, location: Tensor, log_scale: Tensor | None) -> Tensor:
    """Log probability of a grey level: the logistic mass within half a level, 1/510, of x.

    With a = (x - 1/510 - o) / s and b = (x + 1/510 - o) / s::

        log p(x|z) = log(S(b) - S(a)) = log S(b) + log S(-a) + log(1 - exp(a - b))

    The second form neither cancels nor underflows, however far x is from o.  Black takes all of
    the lower tail, log S(b), and white all of the upper tail, log S(-a).

    Sources: Kingma et al. 2016, https://arxiv.org/abs/1606.04934; Salimans et al. 2017,
    equation 2, https://arxiv.org/abs/1701.05517

    Example:
        The probabilities of the 256 levels sum to 1:

        >>> levels = torch.arange(256) / 255
        >>> o, log_scale = torch.full((256,), 0.3), torch.tensor(-2.0)
        >>> round(_logistic_log_prob(levels, o, log_scale).exp().sum().item(), 4)
        1.0
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
    """E[x|z] of the logistic clipped to [0, 1].

    ::

        E[x|z] = s (softplus(o / s) - softplus((o - 1) / s))

    The mean over the 256 levels is the midpoint sum of the integral behind it; the two agree to a
    hundredth of a level for scales above one level.

    Example:
        >>> _logistic_mean(torch.tensor([-9.0, 0.5, 9.0]), torch.tensor(-2.0)).round(decimals=4)
        tensor([0.0000, 0.5000, 1.0000])
    """
    scale = learned_scale(log_scale)
    upper = functional.softplus(location / scale)
    return scale * (upper - functional.softplus((location - 1) / scale))


LIKELIHOODS: Mapping[Likelihood, Distribution] = {
    "bernoulli": Distribution(
        _bernoulli_log_prob,
        _bernoulli_mean,
        _bernoulli_output_bias,
        summed=_bernoulli_summed,
        with_gradient=_bernoulli_with_gradient,
    ),
    "continuous-bernoulli": Distribution(
        _continuous_bernoulli_log_prob,
        _continuous_bernoulli_mean,
        _continuous_bernoulli_output_bias,
    ),
    "gaussian": Distribution(
        _gaussian_log_prob, _gaussian_mean, _gaussian_output_bias, log_scale=-1.0
    ),
    "logistic": Distribution(
        _logistic_log_prob,
        _logistic_mean,
        _gaussian_output_bias,
        log_scale=-2.0,
        levels=True,
    ),
    "logistic-mixture": LOGISTIC_MIXTURE,
}
