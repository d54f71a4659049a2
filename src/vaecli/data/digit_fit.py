"""Cuts a digit out of any picture and centres it as MNIST does.

As MNIST was made: the ink's bounding box scaled into 20 of 28 pixels, whole-pixel shift to the
centre of mass.  Figures below are from 20,000 MNIST digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vaecli.data.pixels import quantile

Value = TypeVar("Value", bound=np.generic)
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Invert = Literal["auto", "yes", "no"]

THIN, USUAL = 1.6, 2.3  # stroke thickness in pixels: 1st percentile, and what thin pens get
FAINT = 0.06  # part of the ink's level from which a pixel counts for the bounding box
DOWN = Image.Resampling.LANCZOS  # nearest to giving an enlarged digit back
FINE = 8  # thickening is done on a grid so many times finer


def edge_of(grey: NDArray[Value]) -> NDArray[Value]:
    """The values along the four sides."""
    return np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))


def digit_ink(
    grey: Bytes, size: tuple[int, int], border: int, invert: Invert, notes: list[str]
) -> Floats:
    """Find the ink of a picture and place it as a digit of MNIST.

    Args:
        grey: (h, w) uint8.
        size: H, W of the result.
        border: the model's ground, which says what `invert` means.
        invert: `auto` finds out whether the ink is dark or light.
        notes: gets a line for each change.

    Returns:
        (H, W) float32, 0 for ground and 1 for full ink.
    """
    # 1,000 pixels are plenty for 28, and averaging removes a camera's noise
    image = Image.fromarray(grey)
    image = image.reduce(max(1, math.ceil(max(image.size) / 1000)))
    wanted = None if invert == "auto" else (border < 128) == (invert == "yes")
    depth, dark, even = _ink_depth(image, wanted)
    if dark == (border < 128):
        notes.append(f"inverted: {'dark' if dark else 'light'} ink")
    found = _cut_out(depth, even)
    if found is None:
        notes.append("no ink found: only background is left")
        return np.zeros(size, np.float32)
    ink, corner = found
    unit = round(20 / 28 * min(size))
    cells = _find_cells(ink, unit)
    # on a tie between two shifts, choose the one that keeps the picture's centre centred
    middle = [side / 2 - start for side, start in zip(depth.shape, corner, strict=True)]
    wide = _thicken(ink, cells, unit)
    if wide is not None:
        notes.append("thin strokes thickened")
        growth = max(wide.shape) / max(ink.shape)
        middle = [place * growth for place in middle]
        ink, cells = wide, _find_cells(wide, unit)
    digit = _shrink(ink, cells)
    mass = [_centre_of_mass(ink.sum(axis)) for axis in (1, 0)]
    return _place(digit / max(digit.max(), 1e-6), size, cells.places(mass), cells.places(middle))


def _ink_depth(image: Image.Image, wanted_dark: bool | None) -> tuple[Floats, bool, bool]:
    """How far each pixel is from the ground towards the ink; is the ink dark, the ground even."""
    grey = np.asarray(image, np.float32)
    edge = edge_of(grey.astype(np.uint8))
    level = float(np.median(edge))
    if quantile(abs(edge - level), 0.9) <= 4:  # a drawing or a scan: one ground
        dark = bool(grey.mean() < level) if wanted_dark is None else wanted_dark
        return np.maximum(level - grey if dark else grey - level, 0), dark, True
    shrink = max(1, math.ceil(max(image.size) / 96))
    coarse = image.reduce(shrink)
    if wanted_dark is None:
        wanted_dark = _ink_is_dark(coarse)
    window = max(3, max(coarse.size) // 4 | 1)
    paper = _fill(coarse, window, wanted_dark).filter(ImageFilter.BoxBlur(window // 4))
    paper = paper.resize(image.size)
    ground = np.asarray(paper, np.float32)
    rest = ground - grey if wanted_dark else grey - ground
    if wanted_dark:  # ink takes a share of the light that falls on it
        rest = rest * (255 / np.maximum(ground, 16))
    rest -= np.median(rest)
    noise = 4 * 1.4826 * float(np.median(abs(rest)))
    return np.maximum(rest - noise, 0), wanted_dark, False


def _fill(image: Image.Image, window: int, dark: bool) -> Image.Image:
    """Remove strokes narrower than `window`; edges of shadows and paper stay (a closing)."""
    filters = [ImageFilter.MaxFilter(window), ImageFilter.MinFilter(window)]
    for step in filters if dark else reversed(filters):
        image = image.filter(step)
    return image


def _ink_is_dark(image: Image.Image) -> bool:
    """Whether strokes are dark, by a vote over stroke widths.

    Narrow windows see pens and pass over desks and shadows; wide ones also see brushes, but take
    what a loop encloses for a stroke.
    """
    grey = np.asarray(image, np.float32)
    vote = 0.0
    for part in (32, 20, 10, 6):
        window = max(3, max(image.size) // part | 1)
        dark, light = (
            float(((np.asarray(_fill(image, window, side), np.float32) - grey) ** 2).mean())
            for side in (True, False)
        )
        vote += (dark - light) / (dark + light + 1)
    middle = image.filter(ImageFilter.MedianFilter(max(3, max(image.size) // 4 | 1)))
    rest = grey - np.asarray(middle, np.float32)
    vote -= float((rest**3).mean() / ((abs(rest) ** 3).mean() + 1))
    return vote >= 0


def _cut_out(depth: Floats, even: bool) -> tuple[Floats, tuple[int, int]] | None:
    """The ink from 0 to 1, cut to its bounding box without specks, and where its corner was."""
    strong = float(depth.max()) / 2
    if strong < 6:
        return None
    for _ in range(8):  # Ridler and Calvard's threshold, with the ground known to be 0
        strong = float(np.median(depth[depth >= strong])) / 2
    if strong < 6:
        return None
    if not even:  # what is left of shadows is no ink
        depth = np.maximum(depth - strong / 2, 0)
        strong /= 2
    kept = depth * _main_parts(depth, strong, 0.01 if even else 0.05)
    full = quantile(kept[kept >= strong], 0.9 if even else 0.35)
    seen = kept > FAINT * full
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    cut = kept[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.minimum(cut / np.float32(full), 1), (int(rows[0]), int(columns[0]))


def _main_parts(depth: Floats, strong: float, share: float) -> NDArray[np.bool_]:
    """Mask (h, w) of the large connected parts, without what surrounds the paper."""
    height, width = depth.shape
    shrink = math.ceil(max(depth.shape) / 160)
    padded = np.pad(depth, ((0, -height % shrink), (0, -width % shrink)))
    blocks = padded.reshape(padded.shape[0] // shrink, shrink, -1, shrink)
    weak: NDArray[np.bool_] = blocks > FAINT * 2 * strong
    labels = _label(np.any(weak, axis=(1, 3)))
    mass = np.where(blocks >= strong, blocks, 0).sum((1, 3))
    weight = np.bincount(labels.ravel(), mass.ravel())
    weight[0] = 0
    rim = edge_of(labels)
    inner = np.where(np.bincount(rim, minlength=len(weight)) > 0.15 * len(rim), 0, weight)
    if inner.max() >= 0.005 * weight.max():
        weight = inner
    parts = (weight >= share * weight.max()) & (weight > 0)
    mask: NDArray[np.bool_] = np.repeat(np.repeat(parts[labels], shrink, 0), shrink, 1)
    return mask[:height, :width]


def _label(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the connected parts of a mask from 1, gaps of four pixels bridged; 0 is outside."""
    inside = _largest_around(mask.astype(np.int32), 2)
    labels = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape) * inside
    while not np.array_equal(grown := _largest_around(labels, 1) * inside, labels):
        labels = grown
    _, numbers = np.unique(labels, return_inverse=True)
    result: NDArray[np.int64] = numbers.reshape(mask.shape).astype(np.int64) + inside.min()
    return result


def _largest_around(values: NDArray[np.int32], radius: int) -> NDArray[np.int32]:
    """The largest value at most `radius` rows and columns away; values are 0 or more."""
    for _ in range(2):  # along the rows, then along the columns
        height = len(values)
        padded = np.pad(values, ((radius, radius), (0, 0)))
        largest = padded[:height]
        for shift in range(1, 2 * radius + 1):
            largest = np.maximum(largest, padded[shift : shift + height])
        values = largest.T
    return values


def _thickness(ink: Floats) -> float:
    """Mean stroke thickness: twice the area over the outline, which is the total variation."""
    around = np.pad(ink, 1)
    a, b, c, d = around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    outline = float(np.hypot(b + d - a - c, c + d - a - b).sum() / 2)
    return 2 * float(ink.sum()) / max(outline, 1e-6)


def _thicken(ink: Floats, cells: Cells, unit: int) -> Floats | None:
    """Widen strokes thinner than MNIST's in a box of `unit` pixels; None: they are not."""
    pixel = unit / 20  # one of MNIST's
    thickness = _thickness(ink) * unit / max(ink.shape)
    # shrinking thickens faint lines, and pixelated outlines are too long before it: a stroke is
    # thin only if it measures thin before and after
    if max(thickness, _thickness(_shrink(ink, cells))) >= THIN * pixel:
        return None
    radius = math.ceil((USUAL * pixel - thickness) / 2 * FINE)
    scale = FINE * unit / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    fine = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    wide = np.pad(fine, 2 * radius)
    grown = np.zeros((height + 2 * radius, width + 2 * radius), np.float32)
    for y in range(2 * radius + 1):
        reach = math.isqrt(radius**2 - (y - radius) ** 2)
        for x in range(radius - reach, radius + reach + 1):
            part = wide[y : y + grown.shape[0], x : x + grown.shape[1]]
            np.maximum(grown, part, out=grown)
    return grown


@dataclass(frozen=True)
class Cells:
    """A grid of `rows` x `columns` square cells of side `pitch` over a finer picture."""

    top: float
    left: float
    pitch: float
    rows: int
    columns: int

    def places(self, point: list[float]) -> tuple[float, float]:
        """A point (row, column) of the finer picture, counted in cells."""
        return (point[0] - self.top) / self.pitch, (point[1] - self.left) / self.pitch


def _find_cells(ink: Floats, unit: int) -> Cells:
    """Grid over ink (h, w) whose longer side has `unit` cells.

    A digit that was enlarged from that size shall come back on its own pixels: of the grids near
    the bounding box, the one that loses least is taken.
    """
    height, width = ink.shape
    if height < width:
        turned = _find_cells(ink.T, unit)
        return Cells(turned.left, turned.top, turned.pitch, turned.columns, turned.rows)
    pitch, top, end = height / unit, 0.0, 0.0
    if unit < 8:  # nothing to be exact about
        return Cells(0, 0, pitch, unit, max(1, round(width / pitch)))
    bands = _bands(ink)
    for step in (pitch / 4, pitch / 8):
        reach = step * (np.arange(-1, 5) if step == pitch / 4 else np.arange(-1, 2))
        ends = [(top + first, end + last) for first in reach for last in reach]
        top, end = min(ends, key=lambda e: _loss(bands, e[0], (height - e[0] - e[1]) / unit, unit))
    pitch = (height - top - end) / unit
    bands = _bands(ink.T)
    rows = [
        (start, min(unit, max(1, math.ceil((width - start) / pitch - 0.25))))
        for start in pitch * np.arange(-2, 9) / 8
    ]
    left, columns = min(rows, key=lambda row: _loss(bands, row[0], pitch, row[1]))
    return Cells(float(top), float(left), float(pitch), unit, columns)


def _shrink(ink: Floats, cells: Cells) -> Floats:
    """Mean over each cell of a grid, sharpened as a good resampling does: (rows, columns)."""
    pad = math.ceil(2 * cells.pitch)
    left, top = cells.left + pad, cells.top + pad
    right, bottom = left + cells.columns * cells.pitch, top + cells.rows * cells.pitch
    image = Image.fromarray(np.pad(ink, pad))
    small = image.resize((cells.columns, cells.rows), DOWN, (left, top, right, bottom))
    return np.asarray(small).clip(0, 1)


def _centre_of_mass(mass: Floats) -> float:
    return float(mass @ (np.arange(len(mass)) + 0.5)) / float(mass.sum())


def _place(
    digit: Floats, size: tuple[int, int], mass: tuple[float, float], middle: tuple[float, float]
) -> Floats:
    """Shift by whole pixels so that the centre of mass comes to the pixel after the centre.

    Where it comes as near from two sides, the one that leaves the picture's own `middle` (row,
    column) at the centre is taken.
    """
    result = np.zeros(size, np.float32)
    corner = []
    for axis in (0, 1):
        goal = size[axis] / 2
        shift = math.ceil(goal - mass[axis])  # MNIST has its mass from 14 up to 15, not included
        for slack in (-0.06, 0.06):
            other = math.ceil(goal - mass[axis] + slack)
            if abs(middle[axis] + other - goal) < 0.25:
                shift = other
        corner.append(min(max(shift, 0), size[axis] - digit.shape[axis]))
    top, left = corner
    result[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return result


def _bands(ink: Floats) -> Floats:
    """Ink (h, w) with at most 48 columns: what `_loss` compares, made cheap."""
    image = Image.fromarray(ink)
    return np.asarray(image.resize((min(image.width, 48), image.height), Image.Resampling.BOX))


def _loss(bands: Floats, start: float, pitch: float, count: int) -> float:
    """Mean square of what is lost by shrinking columns to `count` cells and back."""
    height, width = bands.shape
    pad = math.ceil(3 * pitch)
    padded = np.pad(bands, ((pad, pad), (0, 0)))
    box = (0, start + pad, width, start + pad + count * pitch)
    small = np.asarray(Image.fromarray(padded).resize((width, count), DOWN, box))
    around = np.pad(small, ((3, 3 + max(0, math.ceil((height - start) / pitch) - count)), (0, 0)))
    back = (0, 3 - start / pitch, width, 3 + (height - start) / pitch)
    again = Image.fromarray(around).resize((width, height), Image.Resampling.BICUBIC, back)
    return float(((np.asarray(again) - bands) ** 2).mean())
