"""Pixels as bytes and as numbers in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def as_float(pixels: Bytes) -> NDArray[np.float32]:
    """Pixels uint8 0..255 as float32 in [0, 1], same shape."""
    return pixels.astype(np.float32) / np.float32(255)


def to_uint8(images: NDArray[np.floating[Any]]) -> Bytes:
    """Round images from [0, 1] to 0-255 of the same shape; NaN becomes 0."""
    levels: Bytes = np.rint(255 * np.nan_to_num(images, nan=0).clip(0, 1)).astype(np.uint8)
    return levels


def quantile(values: NDArray[Any], share: float) -> float:
    """The value that this share of all values lies below, between two neighbours if need be.

    `np.quantile` is the same, but its first call imports numpy.ma, a tenth of what `reconstruct`
    takes for one picture.
    """
    return float(
        np.interp(share * (values.size - 1), np.arange(values.size), np.sort(values, None))
    )
