"""Decodes one of the user's image files at a given shape, with a fast path for most photos."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vaecli.data import image_file, levels, picture_fit
from vaecli.data.image_file import Picture
from vaecli.data.levels import FULL, Levels, Ranges
from vaecli.data.origin import SetFit
from vaecli.data.picture_fit import Fitting
from vaecli.system import files
from vaecli.system.size_limits import MAX_IMAGE_BYTES

VERSION = 2
"""Of the pixels that come out: raised when the same file would give others."""
DEFAULT_SIZE = 64
"""Images are resized to this side, unless all have one size that is no larger."""
DRAFT = 1.5
"""A JPEG is decoded at no less than this multiple of the size wanted.

At 1.5 a pixel differs from that of the whole picture by 1.0 of 255 levels in the mean, on noisy
pictures of 128 to 640 pixels brought to 64; at 2 by 0.5 and at 1 by 2.1, for 15 % more and less
time.
"""
_PLAIN_FORMATS = ("JPEG", "PNG", "BMP", "PPM")
_ORIENTATION_KEYS = frozenset(["exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"])

Shape = tuple[int, int, int]
Pixels = NDArray[np.uint8]


@dataclass
class ShapeRule:
    """The shape of prepared images: asked for, or derived from the images seen so far.

    Attributes:
        size: height and width asked for, or None: the images' own when all agree and neither
            side is longer than `DEFAULT_SIZE`, which is taken otherwise.
        channels: 1 or 3 asked for, or None: 3 as soon as one image has colour, that is a pixel
            without R = G = B.
        bright: whether an 8-bit image was seen that is bright enough to settle what is white.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    bright: bool = False
    _sizes: set[tuple[int, int]] = field(default_factory=set)
    _colour: bool = False

    def see(self, size: tuple[int, ...], pixels: NDArray[np.uint8]) -> None:
        """Record the height and width of an image, and whether its pixels (..., C) have colour.

        Safe to call from several threads.
        """
        if len(self._sizes) < 2:
            self._sizes.add((size[0], size[1]))
        if not self.knows_colour and image_file.has_colour(pixels):
            self._colour = True

    @property
    def knows_colour(self) -> bool:
        """Whether no further image can change the number of channels."""
        return self._colour or self.channels is not None

    @property
    def shape(self) -> Shape:
        """Channels, height, width, given the images seen so far."""
        size = self.size
        if size is None and len(self._sizes) == 1:
            size = next(iter(self._sizes))
            size = size if max(size) <= DEFAULT_SIZE else None
        return (self.channels or (3 if self._colour else 1), *(size or (DEFAULT_SIZE,) * 2))


@dataclass
class Seen:
    """What was learned from pictures besides their pixels.

    Attributes:
        levels: ranges of values.
        bright: prepared 8-bit images whose levels are computed later, all at once for speed.
        cut: share of each picture that cropping drops.
        animated: number of animations; only their first frame is used.
    """

    levels: list[Levels] = field(default_factory=list)
    bright: list[NDArray[np.uint8]] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    animated: int = 0

    def add(self, other: Seen) -> None:
        """Add what was learned from other pictures."""
        self.levels = levels.joined([*self.levels, *other.levels])  # one of each kind
        self.cut += other.cut
        self.animated += other.animated


@dataclass(frozen=True)
class Decoder:
    """Reads image files and brings them to one shape.

    Attributes:
        shape: (C, H, W) of the result.
        rule: takes note of every image.
        fitting: how images are brought to the shape.
        ranges: values that mean black and white.
    """

    shape: Shape
    rule: ShapeRule
    fitting: Fitting
    ranges: Ranges

    def read(self, source: Path | bytes, name: str, seen: Seen) -> Pixels:
        """Read an image file as (C, H, W).

        Most photos take a short way that hardly differs; everything else, and everything that
        fails on it, is left to `image_file.read_image` with its checks and to `picture_fit`.

        Args:
            source: path of the file, or its content.
            name: what messages call it.
            seen: takes note of what is found in it.

        Raises:
            DataError: as `read_image` and `picture_fit.prepare`.
        """
        try:
            data = (
                source if isinstance(source, bytes) else files.read_capped(source, MAX_IMAGE_BYTES)
            )
        except (OSError, ValueError):
            image_file.read_image(source, name=name)  # says why
            raise
        if (way := self.fitting.way) is not None:
            try:
                with Image.open(BytesIO(data), formats=_PLAIN_FORMATS) as image:
                    if self._is_plain(image) and image_file.excess(image, len(data)) is None:
                        return self._read_plain(image, way, seen)
            except Exception:
                pass
        return self.fit(image_file.read_image(data, name=name, ranges=self.ranges), name, seen)

    def fit(self, picture: Picture, name: str, seen: Seen) -> Pixels:
        """Bring a decoded picture to (C, H, W)."""
        size = picture.pixels.shape[:2]
        self.rule.see(size, picture.pixels)
        assert picture.levels is not None
        seen.levels.append(picture.levels)
        seen.animated += picture.first_of_several
        if self.fitting.way == "crop":
            seen.cut.append(self._cropped_share(size))
        pixels, _ = picture_fit.prepare(picture, self.shape, name=name, **vars(self.fitting))
        return pixels

    def _cropped_share(self, size: tuple[int, ...]) -> float:
        """Share of a picture of this height and width that cropping drops."""
        height, width = size[0], size[1]
        if (height, width) == self.shape[1:]:
            return 0.0
        aspect = self.shape[2] / self.shape[1]
        left, top, right, bottom = picture_fit.centre_box((width, height), aspect)
        return 1 - (right - left) * (bottom - top) / (width * height)

    def _is_plain(self, image: Image.Image) -> bool:
        """Whether it is a JPEG to be cropped and resized, or already has the right size."""
        _, height, width = self.shape
        return (
            image.mode in ("L", "RGB")
            and (image.format == "JPEG" or image.size == (width, height))
            and "transparency" not in image.info
            and not getattr(image, "is_animated", False)
        )

    def _read_plain(self, image: Image.Image, way: SetFit, seen: Seen) -> Pixels:
        channels, height, width = self.shape
        # a JPEG decodes at 1/2, 1/4 or 1/8 for less; what is left is for the antialiased resize
        image.draft(image.mode, (math.ceil(DRAFT * width), math.ceil(DRAFT * height)))
        image.load()
        if not _ORIENTATION_KEYS.isdisjoint(image.info):
            ImageOps.exif_transpose(image, in_place=True)
        size, span = (image.height, image.width), self.ranges.get("8-bit", FULL["8-bit"])
        decides = span != FULL["8-bit"] or not (
            self.rule.bright and (self.rule.knows_colour or image.mode == "L")
        )
        if decides:  # only then are the pixels copied before they are resized: it takes time
            values = _pixels(image)
            found = Levels.of("8-bit", values, span)
            if span != FULL["8-bit"]:
                image = Image.fromarray(levels.to_bytes(np.asarray(image), span))
        mode = "L" if channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != (width, height) and way == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        elif image.size != (width, height):
            image, _ = picture_fit.fitted(image, (width, height), way)
        pixels = _pixels(image)
        self.rule.see(size, values if decides else pixels)
        if decides:
            seen.levels.append(found)
        else:
            seen.bright.append(pixels)
        if way == "crop":
            seen.cut.append(self._cropped_share(size))
        return pixels.transpose(2, 0, 1)


def _pixels(image: Image.Image) -> Pixels:
    """A grey or RGB image as (H, W, C)."""
    return np.asarray(image).reshape(image.height, image.width, -1)
