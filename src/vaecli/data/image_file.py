"""Decodes one image file of any kind within the size limits: pixels, alpha, value levels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from vaecli.data import formats
from vaecli.data.levels import FULL, Levels, Ranges, SampleType, full_range, to_bytes
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.size_limits import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_PIXELS_PER_BYTE,
    MAX_TIFF_PAGES,
)

Bytes = NDArray[np.uint8]

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255  # tags of a TIFF
_REDUCED_OR_MASK, _REDUCED = 0b101, 2

_SCALE_DOWN = "Scale it down first."
_TO_8_BIT = "Convert it to 8-bit grey or RGB."
_HINT = f"Give a picture in one of the formats {', '.join(formats.ALWAYS)}."


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, with 8 bits per value.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) RGB, uint8.
        alpha: (H, W) uint8, or None where the file has no transparency.
        notes: what was changed to get there.
        levels: the range of values in the file, and what counts as black and white.
        first_of_several: whether it is the first frame of an animation, or page of a stack.
    """

    pixels: Bytes
    alpha: Bytes | None = None
    notes: tuple[str, ...] = ()
    levels: Levels | None = None
    first_of_several: bool = False

    @property
    def coloured(self) -> bool:
        """Whether a pixel anywhere is not grey, R = G = B."""
        return has_colour(self.pixels)


def has_colour(pixels: Bytes) -> bool:
    """Whether R = G = B does not hold everywhere in (..., C)."""
    if pixels.shape[-1] != 3:
        return False
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


def read_image(source: Path | bytes, *, name: str, ranges: Ranges | None = None) -> Picture:
    """Decode an image file, or its bytes; the first picture of several.

    Args:
        source: path of a regular file, or the content of one.
        name: what messages call it.
        ranges: values that mean black and white; the full range for types that are missing.

    Raises:
        DataError: it cannot be read, is damaged, too large, or in a format or mode not taken.
    """
    data = source if isinstance(source, bytes) else _read_file(source, name)
    with _opened(data, name) as image:
        return _decode(image, len(data), ranges or FULL)


def read_pages(
    path: Path, pages: Sequence[tuple[int, str]], ranges: Ranges
) -> Iterator[Picture | DataError]:
    """Decode pages of a TIFF.

    Args:
        path: of the file.
        pages: number of each, and what messages call it.
        ranges: as for `read_image`.

    Yields:
        A picture, or why this page cannot be read.
    """
    try:
        data = _read_file(path, pages[0][1])
        with _opened(data, pages[0][1]) as image:
            for page, name in pages:
                picture: Picture | DataError
                try:
                    with _translated(data, name):
                        image.seek(page)
                        picture = _decode(image, len(data), ranges, chosen=True)
                except DataError as error:
                    picture = error
                yield picture
    except DataError as error:
        yield from [error] * len(pages)


def tiff_pages(path: Path) -> list[int]:
    """Which pictures of a TIFF file are pages; not thumbnails, previews and masks.

    Raises:
        DataError: it cannot be read, or has too many.
    """
    data = _read_file(path, path.name)
    with _opened(data, path.name) as image:
        return _pages(image)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """A picture that is not decoded yet; errors while it is used become a DataError."""
    if not data:
        raise _refusal(name, "it is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise _refusal(
            name, f"it has more than {MAX_IMAGE_BYTES:,} bytes", "Give a smaller picture."
        )
    with _translated(data, name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size is checked below, by us
        with Image.open(BytesIO(data), formats=formats.readers(data)) as image:
            yield image


@contextmanager
def _translated(data: bytes, name: str) -> Iterator[None]:
    """Turn what Pillow raises into a DataError that says what to do."""
    try:
        yield
    except (MemoryError, DataError, GeneratorExit):
        raise
    except UnidentifiedImageError:
        reason, advice = formats.why_unknown(data)
        raise _refusal(name, reason, advice or _HINT) from None
    except _RefusedError as error:
        raise _refusal(name, *error.args) from None
    except Image.DecompressionBombError:
        limit = f"it has more than the limit of {MAX_IMAGE_PIXELS:,} pixels"
        raise _refusal(name, limit, _SCALE_DOWN) from None
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        reason = str(error).strip().rstrip(".") or type(error).__name__
        hint = "The file is damaged or incomplete: save or fetch it again."
        raise _refusal(name, reason[:1].lower() + reason[1:200], hint) from None


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


class _RefusedError(Exception):
    """A picture that must not or cannot be decoded: the reason, and a hint."""


def _pages(image: Image.Image) -> list[int]:
    """Numbers of the pictures of a TIFF that are pages; the first if none is."""
    pages = []
    for number, page in enumerate(ImageSequence.Iterator(image)):
        if number >= MAX_TIFF_PAGES:
            limit = f"it has more than the limit of {MAX_TIFF_PAGES:,} pages"
            raise _RefusedError(limit, _SCALE_DOWN)
        tags = getattr(page, "tag_v2", {})
        if not tags.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK and (
            tags.get(_SUBFILE_TYPE) != _REDUCED
        ):
            pages.append(number)
    return pages or [0]


def _choose(image: Image.Image) -> bool:
    """Seek the first picture that is no thumbnail or mask; whether more follow it."""
    # an MPO is a JPEG with a second view or a gain map behind it, as phones write them
    if not getattr(image, "is_animated", False) or image.format == "MPO":
        return False
    if image.format != "TIFF":
        return True
    pages = _pages(image)
    image.seek(pages[0])
    return len(pages) > 1


def _decode(image: Image.Image, size: int, ranges: Ranges, *, chosen: bool = False) -> Picture:
    """Decode a picture, upright, in one of the four 8-bit modes L, LA, RGB, RGBA.

    Args:
        image: not decoded yet.
        size: bytes of its file.
        ranges: values that mean black and white.
        chosen: whether the caller has already sought one of several pictures.
    """
    notes = []
    several = not chosen and _choose(image)
    if (too_large := excess(image, size)) is not None:
        raise _RefusedError(too_large, _SCALE_DOWN)
    if several:
        notes.append(f"first frame of several in the {image.format}")
    turned = image.getexif().get(0x0112, 1) in range(2, 9)
    tiff = image.format == "TIFF"
    inverted = tiff and getattr(image, "tag_v2", {}).get(262) == 0
    image.load()
    if chosen:  # turning it in place would spoil the next page
        image = ImageOps.exif_transpose(image)
    else:
        ImageOps.exif_transpose(image, in_place=True)
    if turned:
        notes.append("turned upright as its EXIF says")
    mode = image.mode
    if mode == "F":
        raise _RefusedError("its pixels are floating-point numbers", _TO_8_BIT)
    if mode.startswith("I"):
        pixels, alpha, levels = _from_16_bit(image, ranges, tiff, inverted and mode != "I")
        notes.append("16-bit scaled to 8-bit")
    else:
        pixels, alpha, levels = _from_8_bit(image, ranges)
        if mode not in ("1", "L", "LA", "RGB", "RGBA"):
            notes.append(f"{'palette' if mode == 'P' else mode} converted to RGB")
    if levels.range != levels.full:
        notes.append(f"{levels.range[1]:,g} is white")
    if levels.clipped:
        notes.append(f"{levels.clipped:,} of {levels.values:,} values above it were clipped")
    if alpha is not None and alpha.min() < 255:  # what is painted behind it may be white
        levels = replace(levels, highest=max(levels.highest, levels.full[1]))
    return Picture(pixels, alpha, tuple(notes), levels, several)


def _from_8_bit(image: Image.Image, ranges: Ranges) -> tuple[Bytes, Bytes | None, Levels]:
    samples: SampleType = "1-bit" if image.mode == "1" else "8-bit"
    transparent = image.has_transparency_data
    target = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    pixels = np.asarray(image.convert(f"{target}A" if transparent else target))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    alpha = pixels[..., -1] if transparent else None
    values = pixels[..., :-1] if transparent else pixels
    if samples == "1-bit":
        return values, alpha, Levels.of(samples, values // 255, FULL[samples])
    range = ranges.get(samples, FULL[samples])
    return to_bytes(values, range), alpha, Levels.of(samples, values, range)


def _from_16_bit(
    image: Image.Image, ranges: Ranges, tiff: bool, inverted: bool
) -> tuple[Bytes, Bytes | None, Levels]:
    values = np.asarray(image)
    # only a TIFF says that its numbers have 32 bits, or a sign
    samples: SampleType = "integer" if tiff and image.mode == "I" else "16-bit"
    range = ranges.get(samples) or full_range(samples, float(values.max()))
    assert range is not None
    if values.min() < 0 or values.max() > max(65535, range[1]):
        raise _RefusedError("its pixels have more than 16 bits", _TO_8_BIT)
    if values.max() <= 65535:
        values = values.astype(np.uint16)
    pixels = to_bytes(values, range)
    if inverted:  # Pillow leaves "white is zero" to us above 8 bits
        pixels = 255 - pixels
    alpha = None
    if isinstance(clear := image.info.get("transparency"), int):
        alpha = np.where(values == clear, 0, 255).astype(np.uint8)
    return pixels[..., None], alpha, Levels.of(samples, values, range)
