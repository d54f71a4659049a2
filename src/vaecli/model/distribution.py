"""The functions that make up a pixel likelihood p(x|z), and helpers that several of them share.

x is a pixel in [0, 1] in steps of 1/255, o the decoder's output for it, s the learned scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vaecli.model.numpy_likelihoods import LOG_SCALE_FLOOR


@dataclass(frozen=True)
class Distribution:
    """A likelihood as the functions that training, evaluation and pictures need.

    Attributes:
        log_prob: x, o and the log scale to log p(x|z) in nats.
        mean: o and the log scale to E[x|z], which a picture shows.
        output_bias: the mean training image and the number of images to the o with that mean,
            where training starts.
        log_scale: where the learned log scale starts; None if there is none.
        levels: whether p is a probability over the 256 grey levels.
        summed: x and o to log p(x|z) summed over the last axis, where there is a faster way.
        with_gradient: x and o to that sum and to the derivative of log p(x|z) by o, written over o,
            for one that has no log scale and is trained without autograd
            (`training/backpropagation.py`).

    Example:
        >>> from vaecli.model.likelihoods import LIKELIHOODS
        >>> LIKELIHOODS["bernoulli"].mean(torch.zeros(2, 3), None)
        tensor([[0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000]])
    """

    log_prob: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    mean: Callable[[Tensor, Tensor | None], Tensor]
    output_bias: Callable[[Tensor, int], Tensor]
    log_scale: float | None = None
    levels: bool = False
    summed: Callable[[Tensor, Tensor], Tensor] | None = None
    with_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


def learned_scale(log_scale: Tensor | None) -> Tensor:
    """The scale s, kept above e^-7, a quarter of a grey level.

    ::

        s = exp(-7 + softplus(log_scale + 7))

    Without a lower bound, images that are all alike would send s to 0.

    Source: Rybkin et al. 2021, https://arxiv.org/abs/2006.13202

    Args:
        log_scale: the decoder's parameter, a number.

    Example:
        >>> 255 * learned_scale(torch.tensor([-7.0, -100.0]))  # in grey levels
        tensor([0.4651, 0.2325])
    """
    assert log_scale is not None, "this likelihood has a learned scale"
    return torch.exp(LOG_SCALE_FLOOR + functional.softplus(log_scale - LOG_SCALE_FLOOR))


def smoothed(mean_image: Tensor, count: int) -> Tensor:
    """The mean image with one grey image added to the N: never exactly black or white.

    ::

        (N mean + 1/2) / (N + 1)

    Example:
        >>> smoothed(torch.tensor([0.0, 1.0]), 9)
        tensor([0.0500, 0.9500])
    """
    return (mean_image * count + 0.5) / (count + 1)
