"""Detects a second picture after the first in one stream, as `cat a.png b.png` makes it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from io import BytesIO
from typing import Literal

from PIL import Image

from vaecli.data import formats

_BITS = {"1": 1, "L": 8, "RGB": 24, "I": 16, "I;16": 16, "I;16B": 16}


def has_second(data: bytes) -> bool:
    """Whether what lies behind the picture at the start of `data` is a picture too.

    Other things may lie there: phones put videos behind photos.
    """
    try:
        with Image.open(BytesIO(data), formats=formats.readers(data)) as image:
            rest = data[_ENDS[image.format or ""](data, image) :]
    except Exception:  # Pillow's readers raise nearly anything; reading tells what is wrong
        return False
    # writers fill up to a round length, and a shell may add the end of a line
    box = rest.find(b"ftyp", 4, 64) - 4  # of HEIC and AVIF, which begin with zeros themselves
    return _is_picture(rest.lstrip(b"\0\r\n ")) or (box >= 0 and _is_picture(rest[box:]))


def _is_picture(data: bytes) -> bool:
    try:
        with Image.open(BytesIO(data), formats=formats.readers(data)):
            return True
    except Exception:
        return False


def _png(data: bytes, _: Image.Image) -> int:
    place = 8
    while data[place + 4 : place + 8] != b"IEND":
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        if place >= len(data):
            raise ValueError("it has no end")
    return place + 12


def _jpeg(data: bytes, _: Image.Image) -> int:
    place = 2
    while (marker := data[place + 1]) != 0xD9:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:  # a scan: its data ends at a marker that is no restart
            place = _SCAN_END.search(data, place).start()  # type: ignore[union-attr]
    return place + 2


def _mpo(data: bytes, image: Image.Image) -> int:
    """Of a JPEG with others behind it that belong to it, as phones write them."""
    image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
    last = int(image.offset)  # type: ignore[attr-defined]
    return last + _jpeg(data[last:], image)


def _gif(data: bytes, _: Image.Image) -> int:
    def colours(flags: int) -> int:
        return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

    place = 13 + colours(data[10])
    while data[place] != 0x3B:
        place += 2 if data[place] == 0x21 else 11 + colours(data[place + 9])
        while data[place]:  # blocks of data, up to an empty one
            place += 1 + data[place]
        place += 1
    return place + 1


def _riff(data: bytes, _: Image.Image) -> int:
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2


def _bmp(data: bytes, _: Image.Image) -> int:
    size, pixels = (int.from_bytes(data[at : at + 4], "little") for at in (2, 10))
    return size if size > pixels else len(data)  # some writers leave the size out


def _pnm(data: bytes, image: Image.Image) -> int:
    if data[1:2] in b"123":  # numbers as text
        return _NUMBERS.match(data, 2).end()  # type: ignore[union-attr]
    row = math.ceil(image.width * _BITS[image.mode] / 8)
    return int(image.tile[0][2]) + row * image.height  # type: ignore[attr-defined]


def _boxes(data: bytes, _: Image.Image) -> int:
    place = 0
    while place == 0 or data[place + 4 : place + 8] != b"ftyp":
        size = int.from_bytes(data[place : place + 4], "big")
        if size < 8 or place + size > len(data):  # not a box: the other picture
            return place
        place += size
    return place


def _tiff(data: bytes, image: Image.Image) -> int:
    """Behind the pixels and tags of all pages."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"

    def number(place: int, size: int = 4) -> int:
        return int.from_bytes(data[place : place + size], order)

    if number(2, 2) != 42:  # a BigTIFF
        return len(data)
    ends, directory, seen = [8], number(4), set[int]()
    while directory and directory not in seen:
        seen.add(directory)
        count = number(directory, 2)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            size = _TIFF_SIZES.get(number(entry + 2, 2), 1) * number(entry + 4)
            ends.append(number(entry + 8) + size if size > 4 else 0)
        ends.append(directory + 6 + 12 * count)
        directory = number(directory + 2 + 12 * count)
    for page in range(len(seen)):
        image.seek(page)
        tags = image.tag_v2  # type: ignore[attr-defined]
        for offsets, sizes in ((273, 279), (324, 325)):  # strips, tiles
            parts = zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False)
            ends += [offset + size for offset, size in parts]
    return max(ends)


_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value of each type that takes more than one."""
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NUMBERS = re.compile(rb"(?:[\d\s]|#[^\n]*\n)*")
_ENDS: dict[str, Callable[[bytes, Image.Image], int]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "MPO": _mpo,
    "GIF": _gif,
    "WEBP": _riff,
    "BMP": _bmp,
    "PPM": _pnm,
    "TIFF": _tiff,
    "AVIF": _boxes,
    "HEIF": _boxes,
}
