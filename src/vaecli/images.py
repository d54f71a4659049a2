"""Image file ⇄ tensor: careful reading, fitting to a model's shape, grids, PNG bytes."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor

from vaecli import files
from vaecli.errors import DataError

Value = TypeVar("Value", bound=np.generic)
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Fit = Literal["auto", "crop", "digit"]
Invert = Literal["auto", "yes", "no"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset(
    [
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20

_HINT = f"Give a picture in one of the formats {', '.join(FORMATS)}."
_STRANGERS = {b"%!PS": "PostScript", b"%PDF": "PDF", b"<": "HTML or SVG", b"ftyp": "HEIC or AVIF"}


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, with 8 bits per value.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) RGB, uint8.
        alpha: (H, W) uint8, or None where the file has no transparency.
        notes: what was changed to get there.
    """

    pixels: Bytes
    alpha: Bytes | None = None
    notes: tuple[str, ...] = ()


def read_image(source: Path | bytes, *, name: str) -> Picture:
    """Decode an image file, or its bytes.

    Args:
        source: path of a regular file, or the content of one.
        name: what messages call it.

    Raises:
        DataError: it cannot be read, is damaged, too large, or in a format or mode not taken.
    """
    data = source if isinstance(source, bytes) else _read_file(source, name)
    if not data:
        raise _refusal(name, "it is empty")
    if len(data) > MAX_BYTES:
        raise _refusal(name, f"it has more than {MAX_BYTES:,} bytes", "Give a smaller picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked below, by us
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height <= MAX_PIXELS:
                    return _decode(image)
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _refusal(name, _why_unknown(data)) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "it") from None
    except _UnsupportedModeError as error:
        raise _refusal(name, str(error), "Convert it to 8-bit grey or RGB.") from None
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        reason = str(error).strip().rstrip(".") or type(error).__name__
        hint = "The file is damaged or incomplete: save or fetch it again."
        raise _refusal(name, reason[:1].lower() + reason[1:200], hint) from None
    raise _too_large(name, f"{width:,} x {height:,}")


def _read_file(path: Path, name: str) -> bytes:
    try:
        return files.read_capped(path, MAX_BYTES)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _refusal(name, reason, "Check the path and its permissions.") from None
    except ValueError as error:
        raise _refusal(name, str(error)) from None


def _refusal(name: str, reason: str, hint: str = _HINT) -> DataError:
    return DataError(f"cannot read the image: {name}: {reason}", hint)


def _too_large(name: str, size: str) -> DataError:
    reason = f"{size} is more than the limit of {MAX_PIXELS:,} pixels"
    return _refusal(name, reason, "Scale it down first.")


def _why_unknown(data: bytes) -> str:
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, what in _STRANGERS.items():
        if start.startswith(mark) or (mark == b"ftyp" and data[4:8] == mark):
            return f"its content is {what}, which is not taken"
    return "its content is no picture in a format that is taken, or its header is damaged"


class _UnsupportedModeError(Exception):
    """A pixel type that has no defined 8-bit result."""


def _decode(image: Image.Image) -> Picture:
    """Decode the first frame, upright, in one of the four 8-bit modes L, LA, RGB, RGBA."""
    notes = []
    # an MPO is a JPEG with a second view or a gain map behind it, as phones write them
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append(f"first frame of several in the {image.format}")
    turned = image.getexif().get(0x0112, 1) in range(2, 9)
    inverted = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if turned:
        notes.append("turned upright as its EXIF says")
    mode, transparent = image.mode, image.has_transparency_data
    if mode == "F":
        raise _UnsupportedModeError("its pixels are floating-point numbers")
    if mode.startswith("I"):
        notes.append("16-bit scaled to 8-bit")
        return _from_16_bit(image, inverted and mode != "I", tuple(notes))
    target = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    if mode not in ("1", "L", "LA", "RGB", "RGBA"):
        notes.append(f"{'palette' if mode == 'P' else mode} converted to RGB")
    if transparent:
        target += "A"
    pixels = np.asarray(image.convert(target))
    if not transparent:
        return Picture(pixels.reshape(*pixels.shape[:2], -1), None, tuple(notes))
    return Picture(pixels[..., :-1], pixels[..., -1], tuple(notes))


def _from_16_bit(image: Image.Image, inverted: bool, notes: tuple[str, ...]) -> Picture:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise _UnsupportedModeError("its pixels have more than 16 bits")
    # 257 v is v with 16 bits: half a step is added so that the nearest is taken
    pixels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if inverted:  # Pillow leaves "white is zero" to us above 8 bits
        pixels = 255 - pixels
    alpha = None
    if isinstance(clear := image.info.get("transparency"), int):
        alpha = np.where(values == clear, 0, 255).astype(np.uint8)
    return Picture(pixels[..., None], alpha, notes)


def prepare(
    picture: Picture,
    image_shape: tuple[int, int, int],
    *,
    border: int,
    digits: bool,
    fit: Fit = "auto",
    invert: Invert = "auto",
    name: str,
) -> tuple[Tensor, tuple[str, ...]]:
    """Bring a picture to a model's channels, size and polarity.

    One of the model's shape and polarity passes bit by bit.

    Args:
        picture: what `read_image` gave.
        image_shape: (C, H, W) of the model, C 1 or 3.
        border: grey level (0-255) along the border of the model's training images.
        digits: the model was trained on digits, made as MNIST was.
        fit: `auto` fits a digit for grey models of digits and inputs of another size, else crops.
        invert: `auto` inverts, for grey models, what is on a ground of the opposite polarity.
        name: what messages call the picture.

    Returns:
        (C, H, W) uint8, and a note for every change made.

    Raises:
        DataError: the model has neither 1 nor 3 channels.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(
            f"cannot fit the image: {name}: the model has {channels} channels, neither 1 nor 3",
            "Use a model of grey or RGB images.",
        )
    notes = list(picture.notes)
    image = _flatten(picture, channels, border, invert, notes)
    size = f"{image.width}x{image.height} to {width}x{height}"
    same = image.size == (width, height)
    if fit == "digit" or (fit == "auto" and digits and channels == 1 and not same):
        grey = np.asarray(image.convert("L"))
        ink = digit_ink(grey, (height, width), border, invert, notes)
        # ink runs from the border level to the far end of the scale
        plane = np.rint(border + ink * ((255 if border < 128 else 0) - border))
        notes.append(f"fitted as a digit: {size}")
        image = Image.fromarray(plane.astype(np.uint8)).convert(image.mode)
    else:
        if channels == 1 and (invert == "yes" or (invert == "auto" and _opposite(image, border))):
            image = ImageOps.invert(image)
            ground = "dark ink on a light ground" if border < 128 else "light ink on a dark ground"
            notes.append(f"inverted: {ground}" if invert == "auto" else "inverted, as asked")
        if not same:
            box = _centre_box(image.size, width / height)
            cut = "" if box == (0, 0, *image.size) else "cropped at the centre and "
            image = image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=3.0)
            notes.append(f"{cut}resized: {size}")
    pixels = np.array(image).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), tuple(notes)


def _flatten(
    picture: Picture, channels: int, border: int, invert: Invert, notes: list[str]
) -> Image.Image:
    """Bring a picture to the model's channels, in mode L or RGB, and paint what is behind it."""
    pixels = picture.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
        notes.append("colour converted to grey")
    elif channels == 3 and image.mode == "L":
        image = image.convert("RGB")
        notes.append("grey repeated over three channels")
    if picture.alpha is None or picture.alpha.min() == 255:
        return image
    level = 255
    if channels == 1:
        level = 255 - border if invert == "yes" else border
        if invert == "auto":
            level = _ground_behind(np.asarray(image), picture.alpha, border)
    notes.append(f"alpha composited on {({0: 'black', 255: 'white'}).get(level, f'grey {level}')}")
    ground = Image.new(image.mode, image.size, (level,) * len(image.getbands()))
    return Image.composite(image, ground, Image.fromarray(picture.alpha))


def _polar(border: int) -> bool:
    """Whether a border level says on which side the ink is."""
    return min(border, 255 - border) < 64


def _ground_behind(grey: Bytes, alpha: Bytes, border: int) -> int:
    """Level to paint behind a transparent picture, so that its ink can be seen.

    Visible pixels are ink, and go on the side of the scale that they are not on; unless they
    fill their bounding box with both dark and light, as a card with ink on it does: then the
    card goes on.
    """
    seen = alpha > 127
    if not _polar(border) or not seen.any():
        return border
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    low, middle, high = np.percentile(grey[seen], (2, 50, 98))
    if high - low > 96 and seen.sum() > 0.66 * area:
        return int(middle)
    ink = float(grey[seen].mean())
    return border if abs(ink - border) >= abs(ink - (255 - border)) else 255 - border


def _edge(grey: NDArray[Value]) -> NDArray[Value]:
    """The values along the four sides."""
    return np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))


def _opposite(image: Image.Image, border: int) -> bool:
    """Whether a grey image has an even border on the other side of the scale."""
    edge = _edge(np.asarray(image)).astype(np.int16)
    level = int(np.median(edge))
    even = float((abs(edge - level) <= 32).mean()) >= 0.75
    return _polar(border) and even and abs(level - border) >= 128


def _centre_box(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Largest centred part of width / height `aspect`: left, top, right, bottom."""
    width, height = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


# Digits, as MNIST was made: the ink's bounding box scaled into 20 of 28 pixels, whole-pixel
# shift to the centre of mass.  Figures below are from 20,000 MNIST digits.
THIN, USUAL = 1.6, 2.3  # stroke thickness in pixels: 1st percentile, and what thin pens get
FAINT = 0.06  # part of the ink's level from which a pixel counts for the bounding box
DOWN = Image.Resampling.LANCZOS
FINE = 8  # thickening is done on a grid so many times finer


def digit_ink(
    grey: Bytes, size: tuple[int, int], border: int, invert: Invert, notes: list[str]
) -> Floats:
    """Find the ink of a picture and place it as a digit of MNIST.

    Args:
        grey: (h, w) uint8.
        size: H, W of the result.
        border: the model's ground, which says what `invert` means.
        invert: `auto` finds out whether the ink is dark or light.
        notes: gets a line for what is found.

    Returns:
        (H, W) float32, 0 for ground and 1 for full ink.
    """
    # 1,000 pixels are plenty to make 28 of, and averaging removes a camera's noise
    image = Image.fromarray(grey)
    image = image.reduce(max(1, math.ceil(max(image.size) / 1000)))
    wanted = None if invert == "auto" else (border < 128) == (invert == "yes")
    depth, dark, even = _ink_depth(image, wanted)
    if dark == (border < 128):
        notes.append(f"inverted: {'dark' if dark else 'light'} ink")
    found = _cut_out(depth, even)
    if found is None:
        notes.append("no ink found: only the ground is left")
        return np.zeros(size, np.float32)
    ink, corner = found
    unit = round(20 / 28 * min(size))
    cells = _find_cells(ink, unit)
    # the picture's own centre tells which of two shifts is meant when the mass leaves it open
    middle = [(side / 2 - start) for side, start in zip(depth.shape, corner, strict=True)]
    wide = _thicken(ink, cells, unit)
    if wide is not None:
        notes.append("thin strokes thickened")
        growth = max(wide.shape) / max(ink.shape)
        middle = [place * growth for place in middle]
        ink, cells = wide, _find_cells(wide, unit)
    digit = _shrink(ink, cells)
    middle = [(middle[0] - cells.top) / cells.pitch, (middle[1] - cells.left) / cells.pitch]
    return _place(digit / max(digit.max(), 1e-6), size, middle)


def _ink_depth(image: Image.Image, wanted_dark: bool | None) -> tuple[Floats, bool, bool]:
    """How far each pixel is from the ground towards the ink; is the ink dark, the ground even."""
    grey = np.asarray(image, np.float32)
    edge = _edge(grey.astype(np.uint8))
    level = float(np.median(edge))
    if np.percentile(abs(edge - level), 90) <= 4:  # a drawing or a scan: one ground
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
    for _ in range(8):  # Ridler and Calvard's threshold, with the ground known to be 0
        strong = max(float(np.median(depth[depth >= strong])) / 2, 1)
    if strong < 6:
        return None
    if not even:  # what is left of shadows is no ink
        depth = np.maximum(depth - strong / 2, 0)
        strong /= 2
    kept = depth * _main_parts(depth, strong, 0.01 if even else 0.05)
    full = float(np.percentile(kept[kept >= strong], 90 if even else 35))
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
    labels = _label((blocks > FAINT * 2 * strong).any((1, 3)))
    mass = np.where(blocks >= strong, blocks, 0).sum((1, 3))
    weight = np.bincount(labels.ravel(), mass.ravel())
    weight[0] = 0
    rim = _edge(labels)
    inner = np.where(np.bincount(rim, minlength=len(weight)) > 0.15 * len(rim), 0, weight)
    if inner.max() >= 0.005 * weight.max():
        weight = inner
    parts = (weight >= share * weight.max()) & (weight > 0)
    mask: NDArray[np.bool_] = np.repeat(np.repeat(parts[labels], shrink, 0), shrink, 1)
    return mask[:height, :width]


def _label(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the connected parts of a mask from 1, gaps of four pixels bridged; 0 is outside."""
    pool = torch.nn.functional.max_pool2d
    inside = pool(torch.from_numpy(mask).float()[None, None], 5, 1, 2)
    labels = torch.arange(1, mask.size + 1, dtype=torch.float32).view(inside.shape) * inside
    while not torch.equal(grown := pool(labels, 3, 1, 1) * inside, labels):
        labels = grown
    _, numbers = torch.unique(labels, return_inverse=True)
    return np.asarray(numbers[0, 0] + int(inside.min()), np.int64)


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
    # pixelated outlines are too long at first, faint lines too wide at last: thin is thin twice
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


def _find_cells(ink: Floats, unit: int) -> Cells:
    """Grid over ink (h, w) whose longer side has `unit` cells.

    A digit that was enlarged from that size shall come back on its own pixels: of the grids near
    the bounding box, the one that loses least is taken.
    """
    height, width = ink.shape
    if height < width:
        turned = _find_cells(ink.T, unit)
        return Cells(turned.left, turned.top, turned.pitch, turned.columns, turned.rows)
    about = height / unit
    offsets = np.arange(-2, 9) / 8
    bands = _bands(ink, about)
    _, top, pitch = min(
        (
            _loss(bands, start, (height - end - start) / unit, unit),
            start,
            (height - end - start) / unit,
        )
        for start in about * offsets
        for end in about * offsets
    )
    bands = _bands(ink.T, about)
    trials = [
        (start, max(1, math.ceil((width - start) / pitch - 0.25))) for start in pitch * offsets
    ]
    _, left, columns = min(
        (_loss(bands, start, pitch, count), start, count) for start, count in trials
    )
    return Cells(float(top), float(left), float(pitch), unit, columns)


def _shrink(ink: Floats, cells: Cells) -> Floats:
    """Mean over each cell of a grid, sharpened as a good resampling does: (rows, columns)."""
    pad = math.ceil(2 * cells.pitch)
    left, top = cells.left + pad, cells.top + pad
    right, bottom = left + cells.columns * cells.pitch, top + cells.rows * cells.pitch
    image = Image.fromarray(np.pad(ink, pad))
    small = image.resize((cells.columns, cells.rows), DOWN, (left, top, right, bottom))
    return np.asarray(small).clip(0, 1)


def _place(digit: Floats, size: tuple[int, int], middle: list[float]) -> Floats:
    """Shift by whole pixels so that the centre of mass comes within half a pixel of the centre.

    Where it comes as near from two sides, the one that leaves the picture's own `middle` (row,
    column) at the centre is taken.
    """
    result = np.zeros(size, np.float32)
    corner = []
    for axis in (0, 1):
        mass = digit.sum(1 - axis)
        goal = size[axis] / 2
        centre = float(mass @ np.arange(len(mass))) / max(float(mass.sum()), 1e-6)
        shift = math.ceil(goal - 0.5 - centre)
        for other in (math.ceil(goal - 0.5 - centre + slack) for slack in (-0.06, 0.06)):
            if abs(middle[axis] + other - goal) < 0.25:
                shift = other
        corner.append(min(max(shift, 0), size[axis] - len(mass)))
    top, left = corner
    result[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return result


def _bands(ink: Floats, pitch: float) -> Floats:
    image = Image.fromarray(ink)
    return np.asarray(image.resize((min(image.width, 48), image.height), Image.Resampling.BOX))


def _loss(bands: Floats, start: float, pitch: float, count: int) -> float:
    """Mean square of what is lost by shrinking columns to `count` cells and back."""
    height, width = bands.shape
    pad = math.ceil(3 * pitch)
    padded = np.pad(bands, ((pad, pad), (0, 0)))
    box = (0, start + pad, width, start + pad + count * pitch)
    small = np.asarray(Image.fromarray(padded).resize((width, count), DOWN, box))
    around = np.pad(small, ((3, 3), (0, 0)))
    back = (0, 3 - start / pitch, width, 3 + (height - start) / pitch)
    again = Image.fromarray(around).resize((width, height), Image.Resampling.BICUBIC, back)
    return float(((np.asarray(again) - bands) ** 2).mean())


def make_grid(
    pixels: Tensor,
    *,
    columns: int,
    scale: int | None = None,
    gap: int | None = None,
    background: int = 96,
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
    values = pixels.cpu().permute(1, 2, 0).contiguous().numpy()
    file = BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(file, "PNG")
    return file.getvalue()


def to_uint8(images: Tensor) -> Tensor:
    """Round images from [0, 1] to 0-255 of the same shape; NaN becomes 0."""
    return images.nan_to_num(0).clamp(0, 1).mul(255).round().to(torch.uint8)
