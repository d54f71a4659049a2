"""Discretised mixture of logistics: coupled colour channels, and a scale for every value.

The decoder's output holds several numbers per pixel along the channel axis, in this order, for C
channels and M components: M logits; C*M locations; C*M log scales; for colour, 3*M coefficients.
Locations and scales are on the scale from -1 to 1, as in the paper.

Red comes first, then green given red, then blue given both; with their values on that scale::

    location of green = m_g + tanh(c_0) red
    location of blue  = m_b + tanh(c_1) red + tanh(c_2) green

The three share a component, so log p is that of a whole pixel, with one number per position.

Source: Salimans et al. 2017, https://arxiv.org/abs/1701.05517
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vaecli.config import MIXTURE_COMPONENTS, mixture_outputs
from vaecli.model.distribution import Distribution, learned_scale, smoothed
from vaecli.model.numpy_likelihoods import LEVELS, LOG_SCALE_FLOOR

HALF_LEVEL = 1 / (LEVELS - 1)
"""Half the distance of two levels on the scale from -1 to 1."""
FIRST_LOG_SCALE = math.log(0.2)
"""Where log scales start: about the spread of photographs around their mean."""
FIRST_SPREAD = 0.25
"""How far from the mean image the components start."""
SMALLEST_STEP = 1e-12
"""Of half a level in scales, below which its logarithm would be infinite."""


class Parts(NamedTuple):
    """The decoder's output taken apart; `...` are batch and positions.

    Attributes:
        logits: (M, ...) of the components.
        locations: (C, M, ...).
        log_scales: (C, M, ...).
        coefficients: (3, M, ...) before the tanh; (0, M, ...) in grey.
    """

    logits: Tensor
    locations: Tensor
    log_scales: Tensor
    coefficients: Tensor


def split(outputs: Tensor) -> Parts:
    """Take apart outputs whose numbers per pixel come first, (P, ...)."""
    channels = 3 if len(outputs) == mixture_outputs(3) else 1
    each = outputs.unflatten(0, (-1, MIXTURE_COMPONENTS))
    sizes = [1, channels, channels, len(each) - 2 * channels - 1]
    logits, locations, log_scales, coefficients = torch.split(each, sizes)
    return Parts(logits[0], locations, log_scales, coefficients)


def given(location: Tensor, c: Tensor, before: Sequence[Tensor] | Tensor) -> Tensor:
    """The location of a channel, given the values of the channels before it.

    Args:
        location: without them.
        c: the coefficients after the tanh, (3, ...).
        before: the values, from -1 to 1.
    """
    if len(before) == 1:
        return location + c[0] * before[0]
    if len(before) == 2:
        return location + c[1] * before[0] + c[2] * before[1]
    return location


def coupled(parts: Parts, x: Tensor) -> Tensor:
    """Locations (C, M, ...) given all values (C, ...)."""
    c = torch.tanh(parts.coefficients)
    return torch.stack([given(each, c, x[:place]) for place, each in enumerate(parts.locations)])


def log_prob(x: Tensor, outputs: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """Log probability of each pixel, all its channels together.

    Each component is the product over channels of the logistic mass within half a level of the
    value, in the form of `likelihoods._logistic_log_prob`, which neither cancels nor underflows.

    Args:
        x: pixels (..., C, H, W) in [0, 1].
        outputs: (..., P, H, W).
        log_scale: none is needed.

    Returns:
        (..., 1, H, W) nats.

    Example:
        A grey pixel has 256 values:

        >>> levels = (torch.arange(256) / 255).view(256, 1, 1, 1)
        >>> outputs = torch.linspace(-1, 1, 6).view(1, 6, 1, 1).expand(256, 6, 1, 1)
        >>> round(log_prob(levels, outputs).exp().sum().item(), 4)
        1.0
    """
    shape = torch.broadcast_shapes(x.shape[:-3], outputs.shape[:-3])
    x = x.expand(*shape, *x.shape[-3:]).movedim(-3, 0)
    outputs = outputs.expand(*shape, *outputs.shape[-3:]).movedim(-3, 0)
    result: Tensor = _LogProb.apply(2 * x - 1, outputs)
    return result.unsqueeze(-3)


def definition(x: Tensor, outputs: Tensor) -> Tensor:
    """Log probability (...) of values (C, ...) from -1 to 1; outputs (P, ...).

    ::

        log p(x) = log sum over m of pi_m prod over channels of
                   (S((x + 1/255 - mu) / s) - S((x - 1/255 - mu) / s))
    """
    parts = split(outputs)
    locations, x = coupled(parts, x), x.unsqueeze(1)
    inverse = 1 / learned_scale(parts.log_scales)
    centred, half = (x - locations) * inverse, (inverse * HALF_LEVEL).clamp(min=SMALLEST_STEP)
    below_upper = functional.logsigmoid(centred + half)
    above_lower = functional.logsigmoid(half - centred)
    inner = below_upper + above_lower + torch.log(-torch.expm1(-2 * half))
    black, white = x < HALF_LEVEL - 1, x > 1 - HALF_LEVEL
    each = torch.where(black, below_upper, torch.where(white, above_lower, inner)).sum(0)
    return torch.logsumexp(each + torch.log_softmax(parts.logits, 0), 0)


class _LogProb(torch.autograd.Function):
    """`definition` with its gradient written out: a third of autograd's time, and of its memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, outputs: Tensor) -> Tensor:
        """Log p (...) for x (C, ...) and outputs (P, ...)."""
        if not ctx.needs_input_grad[1]:
            return definition(x, outputs)
        gradient = torch.empty_like(outputs, memory_format=torch.contiguous_format)
        to = split(gradient)
        parts = split(outputs)
        inverse = 1 / learned_scale(parts.log_scales)
        centred = (x.unsqueeze(1) - coupled(parts, x)) * inverse
        half = (inverse * HALF_LEVEL).clamp(min=SMALLEST_STEP)
        black, white = x.unsqueeze(1) < HALF_LEVEL - 1, x.unsqueeze(1) > 1 - HALF_LEVEL
        edge = black | white
        mass = -torch.expm1(-2 * half)
        width = torch.log(mass).masked_fill_(edge, 0)
        lower = functional.logsigmoid(centred + half).masked_fill_(white, 0)
        upper = functional.logsigmoid(half - centred).masked_fill_(black, 0)
        # derivatives of the two by centred, and of all three by half
        falls = torch.sigmoid(-centred - half).masked_fill_(white, 0)
        rises = torch.sigmoid(centred - half).masked_fill_(black, 0)
        by_half = falls + rises + (2 / mass - 2).masked_fill_(edge, 0)
        by_centred = falls - rises
        each = (lower + upper + width).sum(0) + torch.log_softmax(parts.logits, 0)
        result = torch.logsumexp(each, 0)
        share = torch.exp(each - result)
        torch.sub(share, torch.softmax(parts.logits, 0), out=to.logits)
        torch.mul(by_centred, -inverse * share, out=to.locations)
        scaled = -(by_centred * centred + by_half * half) * torch.sigmoid(
            parts.log_scales - LOG_SCALE_FLOOR
        )
        torch.mul(scaled, share, out=to.log_scales)
        if len(x) == 3:
            flat = 1 - torch.tanh(parts.coefficients).square()
            torch.mul(to.locations[1], x[0], out=to.coefficients[0])
            torch.mul(to.locations[2], x[0], out=to.coefficients[1])
            torch.mul(to.locations[2], x[1], out=to.coefficients[2])
            to.coefficients.mul_(flat)
        ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """The gradient by the outputs; the pixels are data."""
        (gradient,) = ctx.saved_tensors
        return None, gradient * gradients[0]


def mean(outputs: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """About E[x|z] of each value, in [0, 1]: (..., P, H, W) to (..., C, H, W).

    In a component a channel has the mean of a logistic clipped to [-1, 1], given the means of the
    channels before it, which is exact as long as nothing is clipped; the components are weighted
    with their probabilities.

    Example:
        >>> mean(torch.zeros(1, 20, 1, 1)).flatten()
        tensor([0.5000, 0.5000, 0.5000])
    """
    parts = split(outputs.movedim(-3, 0))
    scales = learned_scale(parts.log_scales)
    c = torch.tanh(parts.coefficients)
    means: list[Tensor] = []
    for location, scale in zip(parts.locations, scales, strict=True):
        location = given(location, c, means)
        upper = functional.softplus((location + 1) / scale)
        means.append(scale * (upper - functional.softplus((location - 1) / scale)) - 1)
    weighted = (torch.stack(means) * torch.softmax(parts.logits, 0)).sum(1)
    return (0.5 + 0.5 * weighted).movedim(0, -3)


def output_bias(mean_image: Tensor, count: int) -> Tensor:
    """Components around the smoothed mean image (C, H, W), equally likely; (P, H, W)."""
    channels = len(mean_image)
    bias = mean_image.new_zeros(mixture_outputs(channels), *mean_image.shape[1:])
    parts = split(bias)
    around = torch.linspace(-FIRST_SPREAD, FIRST_SPREAD, MIXTURE_COMPONENTS)
    centre = 2 * smoothed(mean_image, count) - 1
    parts.locations.copy_(centre.unsqueeze(1) + around.view(1, -1, 1, 1))
    parts.log_scales.fill_(FIRST_LOG_SCALE)
    return bias


LOGISTIC_MIXTURE = Distribution(log_prob, mean, output_bias, levels=True)
