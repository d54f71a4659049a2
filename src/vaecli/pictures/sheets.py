"""Grids of decoded images with labelled rows, columns and axes, in Pillow's own font."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vaecli.evaluation.latent_space import REACH, Dimensions, quantiles
from vaecli.pictures.grid import BACKGROUND, Bytes, as_image, make_grid

PAPER, INK, FAINT = (255, 255, 255), (32, 32, 32), (96, 96, 96)
ALARM = (176, 58, 0)
"""Dark vermilion for collapsed dimensions; colour-blind readers can tell it from `INK`."""
TILE = 56
PAD = 8
HEAT_SIDE = 224
"""Pixels of the longer side of a heat map at least, for its legend."""
HEAT_COLOURS = np.array(
    [(106, 23, 110), (188, 55, 84), (237, 105, 37), (251, 180, 26), (252, 255, 164)], np.float64
)
"""Five colours of matplotlib's inferno, each lighter than the one before for every kind of eyes."""
DIMMED = 0.5
"""Brightness of the picture under the heat."""


def traversal(pixels: Bytes, dimensions: Dimensions, steps: int) -> Bytes:
    """One row per latent dimension, labelled with it and its KL; collapsed ones are marked.

    Args:
        pixels: (R * steps, C, H, W) uint8, the dimension of the largest KL first.
        dimensions: of the model.
        steps: images in a row.

    Returns:
        (3, H', W') uint8.
    """
    grid = _rgb(make_grid(pixels, columns=steps, scale=_scale(pixels)))
    gap, height, width = _cell(pixels)
    left, top = 104, 44
    sheet, draw = _page(left + grid.width + PAD, top + grid.height + PAD)
    sheet.paste(grid, (left, top))
    _text(draw, (left + grid.width / 2, 12), "standard deviations of the prior", FAINT, 12, "mm")
    for column in range(steps):
        value = -REACH + 2 * REACH * column / max(1, steps - 1)
        x = left + gap + column * (width + gap) + width / 2
        _text(draw, (x, 32), _signed(value), INK, 13, "mm")
    for row, dimension in enumerate(dimensions.by_kl[: len(pixels) // steps]):
        y = top + gap + row * (height + gap) + height / 2
        active = dimensions.active[dimension]
        _text(draw, (left - 10, y - 9), f"z{dimension}", INK if active else ALARM, 15, "rm")
        detail = f"KL {dimensions.kl[dimension]:.2f} nats" if active else "collapsed"
        _text(draw, (left - 10, y + 9), detail, FAINT if active else ALARM, 12, "rm")
    return _pixels(sheet)


def interpolation(pixels: Bytes, ends: Bytes, columns: int) -> Bytes:
    """A path from one image to another, between the two originals.

    Args:
        pixels: (S, C, H, W) uint8, decoded.
        ends: (2, C, H, W) uint8, the originals.
        columns: decoded images in a row.

    Returns:
        (3, H', W') uint8.
    """
    gap, _, width = _cell(pixels)
    columns = min(columns, len(pixels))
    grid = _rgb(make_grid(pixels, columns=columns, scale=_scale(pixels)))
    first, last = (_rgb(make_grid(end[None], columns=1, scale=_scale(pixels))) for end in ends)
    top, space = 30, 3 * PAD
    left = PAD + first.width + space
    right = left + grid.width + space
    sheet, draw = _page(right + last.width + PAD, top + grid.height + PAD)
    sheet.paste(grid, (left, top))
    sheet.paste(first, (PAD, top))
    sheet.paste(last, (right, top + grid.height - last.height))
    middle = top / 2
    _text(draw, (PAD + first.width / 2, middle), "original", FAINT, 12, "mm")
    _text(draw, (left + gap + width / 2, middle), "decoded", FAINT, 12, "mm")
    if columns == len(pixels):
        for column in range(1, columns - 1):
            x = left + gap + column * (width + gap) + width / 2
            _text(draw, (x, middle), f"{column / (columns - 1):.2f}".lstrip("0"), FAINT, 12, "mm")
        _text(draw, (left + grid.width - gap - width / 2, middle), "decoded", FAINT, 12, "mm")
        _text(draw, (right + last.width / 2, middle), "original", FAINT, 12, "mm")
    return _pixels(sheet)


def manifold(pixels: Bytes, side: int, horizontal: str, vertical: str | None) -> Bytes:
    """A grid without gaps through a plane of the latents, with its two axes.

    Args:
        pixels: (side * side, C, H, W) uint8, or (side, ...) without a vertical axis; top row first.
        side: images in a row.
        horizontal: what grows to the right.
        vertical: what grows upwards.

    Returns:
        (3, H', W') uint8.
    """
    scale = max(1, math.ceil(448 / (side * max(pixels.shape[2:]))))
    grid = _rgb(make_grid(pixels, columns=side, scale=scale, gap=0))
    left, bottom = PAD if vertical is None else 44, 44
    sheet, draw = _page(left + grid.width + PAD, PAD + grid.height + bottom)
    sheet.paste(grid, (left, PAD))
    reach = float(quantiles(side)[-1])
    low, high = _signed(-reach, 2), _signed(reach, 2)
    y = PAD + grid.height
    _text(draw, (left, y + 7), low, FAINT, 12, "la")
    _text(draw, (left + grid.width, y + 7), high, FAINT, 12, "ra")
    _text(draw, (left + grid.width / 2, y + 7), horizontal, INK, 14, "ma")
    if vertical is not None:
        # written on a strip of its own, which is then turned
        strip, pen = _page(grid.height, 30)
        _text(pen, (0, 22), low, FAINT, 12, "ls")
        _text(pen, (grid.height, 22), high, FAINT, 12, "rs")
        _text(pen, (grid.height / 2, 22), vertical, INK, 14, "ms")
        sheet.paste(strip.transpose(Image.Transpose.ROTATE_90), (8, PAD))
    return _pixels(sheet)


def captioned(picture: Bytes, text: str) -> Bytes:
    """A picture (C, H, W) uint8 with a line of text below, as (1 or 3, H', W')."""
    image = _rgb(picture)
    ground = (BACKGROUND // 2,) * 3
    sheet = Image.new("RGB", (image.width, image.height + 24), ground)
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    _text(draw, (image.width / 2, image.height + 11), text, PAPER, 14, "mm")
    captured = _pixels(sheet)
    return captured[:1] if picture.shape[0] == 1 else captured


def rows(pixels: Bytes, columns: int, names: Sequence[str], heading: str) -> Bytes:
    """A grid with a name beside each row.

    Args:
        pixels: (R * columns, C, H, W) uint8, row by row.
        columns: images in a row.
        names: of the R rows, of one line or two.
        heading: above them.

    Returns:
        (3, H', W') uint8.
    """
    grid = _rgb(make_grid(pixels, columns=columns, scale=_scale(pixels)))
    gap, height, _ = _cell(pixels)
    left, top = 132, 28
    sheet, draw = _page(left + grid.width + PAD, top + grid.height + PAD)
    sheet.paste(grid, (left, top))
    _text(draw, (left, 14), heading, FAINT, 12, "lm")
    for row, name in enumerate(names):
        y = top + gap + row * (height + gap) + height / 2
        lines = [_shortened(line) for line in name.split("\n")]
        for number, line in enumerate(lines):
            place = left - 10, y + 18 * (number - (len(lines) - 1) / 2)
            _text(draw, place, line, FAINT if number else INK, 12, "rm")
    return _pixels(sheet)


def _shortened(text: str) -> str:
    """The end of a long name: that of a path tells more."""
    return text if len(text) <= 18 else f"...{text[-16:]}"


def heated(pixels: Bytes, heat: NDArray[np.float32]) -> Bytes:
    """Pictures dimmed to grey, with heat as colour over them: dark purple, orange, light yellow.

    Args:
        pixels: (N, C, H, W) uint8.
        heat: (N, H, W) from 0, which shows the picture alone, to 1.

    Returns:
        (N, 3, H, W) uint8.
    """
    grey = pixels if pixels.shape[1] == 1 else _luminance(pixels)
    result: Bytes = np.moveaxis(_over(DIMMED * grey[:, 0], heat), -1, 1)
    return result


def heatmap(pixels: Bytes, heat: NDArray[np.float32]) -> Bytes:
    """One picture (C, H, W) with its heat (H, W), enlarged, above the legend; (3, H', W')."""
    scale = max(1, math.ceil(HEAT_SIDE / max(heat.shape)))
    size = heat.shape[1] * scale, heat.shape[0] * scale
    smooth = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    large = pixels.repeat(scale, 1).repeat(scale, 2)
    return with_legend(heated(large[None], smooth[None].clip(0, 1))[0])


def with_legend(picture: Bytes) -> Bytes:
    """A picture (3, H, W) with heat, above what its colours mean; (3, H', W')."""
    image = _rgb(picture)
    width = max(image.width, HEAT_SIDE)
    sheet, draw = _page(width, image.height + 38)
    sheet.paste(image, ((width - image.width) // 2, 0))
    bar = _over(np.zeros((10, width)), np.linspace(0, 1, width)[None].repeat(10, 0))
    sheet.paste(Image.fromarray(bar), (0, image.height + 5))
    y = image.height + 26
    _text(draw, (2, y), "as usual", INK, 12, "lm")
    _text(draw, (width - 2, y), "as in 1 of 100 pictures", INK, 12, "rm")
    return _pixels(sheet)


def _over(grey: NDArray[Any], heat: NDArray[Any]) -> Bytes:
    """Heat (...) from 0 to 1 in colour over grey (...), the stronger the less transparent."""
    places = np.linspace(0, 1, len(HEAT_COLOURS))
    colours = np.stack([np.interp(heat, places, channel) for channel in HEAT_COLOURS.T], -1)
    opacity = np.sqrt(heat)[..., None]
    mixed: Bytes = np.rint((1 - opacity) * grey[..., None] + opacity * colours).astype(np.uint8)
    return mixed


def _luminance(pixels: Bytes) -> NDArray[np.float64]:
    """Colour (N, 3, H, W) as grey (N, 1, H, W); Rec. 601, as Pillow does it."""
    weights = np.array([0.299, 0.587, 0.114])
    grey: NDArray[np.float64] = np.einsum("nchw,c->nhw", pixels, weights)[:, None]
    return grey


def _scale(pixels: Bytes) -> int:
    larger: int = max(pixels.shape[2:])
    return max(1, math.ceil(TILE / larger))


def _cell(pixels: Bytes) -> tuple[int, int, int]:
    """Gap, height and width of an image in a grid, in pixels, as `make_grid` lays them out."""
    scale = _scale(pixels)
    return max(2, scale), pixels.shape[2] * scale, pixels.shape[3] * scale


def _signed(value: float, digits: int = 1) -> str:
    text = f"{abs(value):.{digits}f}".rstrip("0").rstrip(".")
    return text if text == "0" else f"{'+' if value > 0 else '-'}{text}"


def _page(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width, height), PAPER)
    return sheet, ImageDraw.Draw(sheet)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: Sequence[int],
    points: int,
    anchor: str,
) -> None:
    font = ImageFont.load_default(points)
    draw.text(place, text, fill=tuple(colour), font=font, anchor=anchor)


def _rgb(pixels: Bytes) -> Image.Image:
    return as_image(pixels).convert("RGB")


def _pixels(image: Image.Image) -> Bytes:
    return np.asarray(image).transpose(2, 0, 1)
