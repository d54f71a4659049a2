"""Activation functions in numpy, float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from vaecli.config import Activation

Floats = NDArray[np.float32]


def _relu(x: Floats) -> Floats:
    positive: Floats = np.maximum(x, 0)
    return positive


def _gelu(x: Floats) -> Floats:
    result: Floats = np.float32(0.5) * x * (1 + _erf(x * np.float32(0.5**0.5)))
    return result


def _silu(x: Floats) -> Floats:
    product: Floats = x * sigmoid(x)
    return product


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without an overflow."""
    small = np.exp(-np.abs(x))
    result: Floats = np.where(x < 0, small, np.float32(1)) / (1 + small)
    return result


def _erf(x: Floats) -> Floats:
    """The error function to 1.5e-7 (Abramowitz & Stegun 1964, formula 7.1.26)."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = np.float32(1.061405429) * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(coefficient)) * t
    result: Floats = np.copysign(1 - series * np.exp(-x * x), x)
    return result


ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {
    "relu": _relu,
    "gelu": _gelu,
    "silu": _silu,
    "tanh": np.tanh,
}
