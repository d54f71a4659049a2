"""An image file of any kind, read with suspicion and brought to a model's shape."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vaecli import files, formats
from vaecli.digit_fit import Invert, digit_ink, edge_of
from vaecli.errors import DataError
from vaecli.limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_PIXELS_PER_BYTE

Bytes = NDArray[np.uint8]
Fit = Literal["auto", "crop", "digit"]

_HINT = f"Give a picture in one of the formats {', '.join(formats.ALWAYS)}."


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
    if len(data) > MAX_IMAGE_BYTES:
        raise _refusal(
            name, f"it has more than {MAX_IMAGE_BYTES:,} bytes", "Give a smaller picture."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked below, by us
            with Image.open(BytesIO(data), formats=formats.readers(data)) as image:
                too_large = excess(image, len(data))
                if too_large is None:
                    return _decode(image)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        reason, advice = formats.why_unknown(data)
        raise _refusal(name, reason, advice or _HINT) from None
    except Image.DecompressionBombError:
        limit = f"it has more than the limit of {MAX_IMAGE_PIXELS:,} pixels"
        raise _refusal(name, limit, "Scale it down first.") from None
    except _UnsupportedModeError as error:
        raise _refusal(name, str(error), "Convert it to 8-bit grey or RGB.") from None
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        reason = str(error).strip().rstrip(".") or type(error).__name__
        hint = "The file is damaged or incomplete: save or fetch it again."
        raise _refusal(name, reason[:1].lower() + reason[1:200], hint) from None
    raise _refusal(name, too_large, "Scale it down first.")


def excess(image: Image.Image, size: int) -> str | None:
    """Why a picture in a file of `size` bytes must not be decoded, by its header; or None."""
    pixels = image.width * image.height
    shape = f"{image.width:,} x {image.height:,}"
    if pixels > MAX_IMAGE_PIXELS:
        return f"{shape} is more than the limit of {MAX_IMAGE_PIXELS:,} pixels"
    if pixels > 10**6 and pixels > MAX_PIXELS_PER_BYTE * size:
        return f"{shape} pixels in {size:,} bytes are more than {MAX_PIXELS_PER_BYTE:,} for each"
    return None


def _read_file(path: Path, name: str) -> bytes:
    try:
        return files.read_capped(path, MAX_IMAGE_BYTES)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _refusal(name, reason, "Check the path and its permissions.") from None
    except ValueError as error:
        raise _refusal(name, str(error)) from None


def _refusal(name: str, reason: str, hint: str = _HINT) -> DataError:
    return DataError(f"cannot read the image: {name}: {reason}", hint)


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
        notes.append("RGB converted to grey")
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


def _opposite(image: Image.Image, border: int) -> bool:
    """Whether a grey image has an even border on the other side of the scale."""
    edge = edge_of(np.asarray(image)).astype(np.int16)
    level = int(np.median(edge))
    even = float((abs(edge - level) <= 32).mean()) >= 0.75
    return _polar(border) and even and abs(level - border) >= 128


def _centre_box(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Largest centred part of width / height `aspect`: left, top, right, bottom."""
    width, height = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height
