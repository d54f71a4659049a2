"""Grids of images, PNG and NPY files, and small copies for the terminal."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BACKGROUND = 96
"""Grey of gaps and empty places, unlike black and white grounds."""


def make_grid(
    pixels: Tensor,
    *,
    columns: int,
    scale: int | None = None,
    gap: int | None = None,
    background: int = BACKGROUND,
) -> Tensor:
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
    tiles = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    tiles = torch.nn.functional.pad(tiles, (0, gap, 0, gap), value=background)
    sheet = tiles.new_full((rows * columns, *tiles.shape[1:]), background)
    sheet[:count] = tiles
    sheet = sheet.view(rows, columns, channels, height + gap, width + gap).permute(2, 0, 3, 1, 4)
    sheet = sheet.reshape(channels, rows * (height + gap), columns * (width + gap))
    return torch.nn.functional.pad(sheet, (gap, 0, gap, 0), value=background)


def encode_png(pixels: Tensor) -> bytes:
    """PNG file of a (C, H, W) uint8 tensor, C 1 or 3; the same bytes for the same pixels."""
    file = io.BytesIO()
    as_image(pixels).save(file, "PNG")
    return file.getvalue()


def make_pairs(originals: Tensor, reconstructions: Tensor, *, columns: int) -> Tensor:
    """A grid of rows of originals, each above the row of their reconstructions.

    Args:
        originals: (N, C, H, W) uint8.
        reconstructions: the same shape.
        columns: pairs in a row.

    Returns:
        (C, H', W') uint8.
    """
    columns = min(columns, len(originals))
    rows = [
        part
        for pair in zip(originals.split(columns), reconstructions.split(columns), strict=True)
        for part in pair
    ]
    # a short last row must not let its reconstructions move up beside the originals
    blank = originals.new_full((columns - len(rows[-1]), *originals.shape[1:]), BACKGROUND)
    filled = [torch.cat([row, blank]) if len(row) < columns else row for row in rows]
    return make_grid(torch.cat(filled), columns=columns)


def square(count: int) -> int:
    """Columns of the most nearly square grid of `count` images."""
    return math.ceil(math.sqrt(count))


def encode_npy(pixels: Tensor) -> bytes:
    """Pixels (N, C, H, W) uint8 as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, pixels.cpu().numpy(), allow_pickle=False)
    return buffer.getvalue()


def as_image(pixels: Tensor) -> Image.Image:
    """Pixels (C, H, W) uint8 as Pillow takes them."""
    values = pixels.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def small(pixels: Tensor, height: int, width: int) -> np.ndarray:
    """Images (N, C, H, W) uint8 as (N, height, width, 3), smoothly reduced where they are larger.

    For the terminal: an array that needs no torch to look at.
    """
    pixels = pixels.cpu()  # not every device can shrink smoothly
    if tuple(pixels.shape[2:]) != (height, width):
        # in floating point: the reduction of uint8 is not the same on every device
        shrunk = torch.nn.functional.interpolate(
            pixels.float(), (height, width), mode="bilinear", antialias=True
        )
        pixels = shrunk.round().clamp(0, 255).to(torch.uint8)
    colours = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
    return colours.permute(0, 2, 3, 1).numpy()
