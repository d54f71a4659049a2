"""Grids of images, PNG and NPY files, and small copies for the terminal."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

BACKGROUND = 96
"""Grey of gaps and empty places, unlike black and white grounds."""


def make_grid(
    pixels: Bytes,
    *,
    columns: int,
    scale: int | None = None,
    gap: int | None = None,
    background: int = BACKGROUND,
) -> Bytes:
    """Lay images out in rows.

    Args:
        pixels: (N, C, H, W) uint8, N at least 1.
        columns: images in a row; fewer when N is less.
        scale: whole factor of enlargement; by default small images get at least 56 pixels.
        gap: pixels between and around images, by default one of the enlarged ones, at least 2.
        background: grey level of gaps and of places left over, unlike black and white grounds.

    Returns:
        (C, H', W') uint8.
    """
    count, channels, height, width = pixels.shape
    scale = scale or max(1, math.ceil(56 / max(height, width)))
    gap = max(2, scale) if gap is None else gap
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    height, width = height * scale, width * scale
    tiles = pixels.repeat(scale, 2).repeat(scale, 3)
    size = gap + rows * (height + gap), gap + columns * (width + gap)
    sheet = np.full((channels, *size), background, np.uint8)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[:, top : top + height, left : left + width] = tile
    return sheet


def encode_png(pixels: Bytes) -> bytes:
    """PNG file of (C, H, W) uint8, C 1 or 3; the same bytes for the same pixels."""
    file = io.BytesIO()
    as_image(pixels).save(file, "PNG")
    return file.getvalue()


def make_pairs(originals: Bytes, *below: Bytes, columns: int) -> Bytes:
    """A grid of rows of originals, each above the rows of what belongs to them.

    Args:
        originals: (N, C, H, W) uint8.
        below: reconstructions, and more of the same shape.
        columns: originals in a row.

    Returns:
        (C, H', W') uint8.
    """
    columns = min(columns, len(originals))
    rows = [
        images[start : start + columns]
        for start in range(0, len(originals), columns)
        for images in (originals, *below)
    ]
    # a short last row must not let its reconstructions move up beside the originals
    missing = columns - len(rows[-1])
    blank = np.full((missing, *originals.shape[1:]), BACKGROUND, np.uint8)
    filled = [np.concatenate([row, blank]) if len(row) < columns else row for row in rows]
    return make_grid(np.concatenate(filled), columns=columns)


def square(count: int) -> int:
    """Columns of the most nearly square grid of `count` images."""
    return math.ceil(math.sqrt(count))


def encode_npy(pixels: Bytes) -> bytes:
    """Pixels (N, C, H, W) uint8 as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def as_image(pixels: Bytes) -> Image.Image:
    """Pixels (C, H, W) uint8 as Pillow takes them."""
    values = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def small(pixels: Bytes, height: int, width: int) -> Bytes:
    """Images (N, C, H, W) uint8 as (N, height, width, 3), smoothly reduced where they are larger.

    For the terminal.
    """
    size = width, height
    images = (as_image(image).convert("RGB") for image in pixels)
    bilinear = Image.Resampling.BILINEAR
    return np.stack(
        [
            np.asarray(image if image.size == size else image.resize(size, bilinear))
            for image in images
        ]
    )
