"""Image files to rows of one uint8 array, in parallel over the cores.

Threads, not processes: Pillow gives Python's lock back while it decodes and resizes, and threads
need no second import of torch, no guard in the caller's script and no copies.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vaecli.data import image_file, levels
from vaecli.data.dataset import image_hashes
from vaecli.data.digit_fit import Invert
from vaecli.data.image_file import Fit, Picture
from vaecli.data.levels import FULL, Levels, Ranges
from vaecli.data.origin import SetFit
from vaecli.data.own.folder import Entry
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.limits import MAX_IMAGE_BYTES

VERSION = 2
"""Of the pixels that come out: raised when the same file would give others."""
DEFAULT_SIZE = 64
"""Side images are brought to; images that all have one size no larger than this keep it."""
WHITE = 255
_BATCH = 32
DRAFT = 1.5
"""A JPEG is decoded no smaller than so many times the size wanted.

At 1.5 a pixel differs from that of the whole picture by 1.0 of 255 levels in the mean, on noisy
pictures of 128 to 640 pixels brought to 64; at 2 by 0.5 and at 1 by 2.1, for 15 % more and less
time.
"""
_SHORT_WAY = ("JPEG", "PNG", "BMP", "PPM")
_TURNING = frozenset(["exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"])

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Fitting:
    """How a picture is brought to a shape; arguments of `image_file.prepare`."""

    border: int = WHITE
    digits: bool = False
    fit: Fit = "crop"
    set_fit: SetFit = "crop"
    invert: Invert = "no"

    @property
    def way(self) -> SetFit | None:
        """How a picture is brought to the size where nothing else is done to it; else None."""
        if self.border != WHITE or self.digits or self.invert != "no" or self.fit == "digit":
            return None
        return self.set_fit if self.fit == "auto" else self.fit


@dataclass
class ShapeRule:
    """The shape of prepared images, as asked for or as found in those seen so far.

    Attributes:
        size: height and width asked for, or None: the images' own when all agree and neither
            side is longer than `DEFAULT_SIZE`, which is taken otherwise.
        channels: 1 or 3 asked for, or None: 3 as soon as one image has colour, which is where
            R = G = B does not hold.
        bright: whether an 8-bit image was seen that leaves no doubt about what is white.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    bright: bool = False
    _sizes: set[tuple[int, int]] = field(default_factory=set)
    _colour: bool = False

    def see(self, size: tuple[int, ...], pixels: NDArray[np.uint8]) -> None:
        """Take note of the height and width of an image, and the colour of its pixels (..., C).

        Threads may do so at once.
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
        """Channels, height, width after what was seen."""
        size = self.size
        if size is None and len(self._sizes) == 1:
            size = next(iter(self._sizes))
            size = size if max(size) <= DEFAULT_SIZE else None
        return (self.channels or (3 if self._colour else 1), *(size or (DEFAULT_SIZE,) * 2))


@dataclass
class Seen:
    """What was found in pictures besides pixels.

    Attributes:
        levels: ranges of values, of pictures or of several together.
        bright: prepared 8-bit images whose levels are still to be taken, all at once for speed.
        cut: share of each picture that cropping drops.
        animated: how many are animations, of which the first frame is taken.
    """

    levels: list[Levels] = field(default_factory=list)
    bright: list[NDArray[np.uint8]] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    animated: int = 0

    def add(self, other: Seen) -> None:
        """Take in what was found in others."""
        self.levels = levels.joined([*self.levels, *other.levels])  # one of each kind
        self.cut += other.cut
        self.animated += other.animated


@dataclass(frozen=True)
class Decoded:
    """What became of some files.

    Attributes:
        pixels: (n, C, H, W) uint8.
        bad: why others are missing, by place.
        hashes: of the pixels of each image.
        seen: what else was found in them.
    """

    pixels: NDArray[np.uint8]
    bad: dict[int, str]
    hashes: list[int]
    seen: Seen


class StartAgainError(Exception):
    """Images were found that change the shape of all, or what counts as white."""


def decode_all(
    root: Path,
    entries: Sequence[Entry],
    rule: ShapeRule,
    fitting: Fitting,
    ranges: Ranges = FULL,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Decoded]:
    """Decode files in order, some at a time.

    Args:
        root: the folder.
        entries: images in it.
        rule: gives the shape, and learns from the images.
        fitting: how they are brought to it.
        ranges: values that mean black and white.
        progress: told (done, total).

    Raises:
        StartAgainError: the shape is another than it seemed; what came so far is void.
    """
    shape = rule.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked by us, and threads share the filters
        batches = [range(i, min(i + _BATCH, len(entries))) for i in range(0, len(entries), _BATCH)]

        def work(places: range) -> Decoded:
            return _decode_batch(root, entries, places, shape, rule, fitting, ranges)

        for places, decoded in _in_order(work, batches):
            if rule.shape != shape:
                raise StartAgainError
            progress(places.stop, len(entries))
            yield decoded


def _in_order(
    work: Callable[[range], Decoded], batches: Iterable[range]
) -> Iterator[tuple[range, Decoded]]:
    """Results in order, with a bounded number of batches under way."""
    workers = cores()
    pending: deque[tuple[range, Future[Decoded]]] = deque()
    source = iter(batches)
    executor = ThreadPoolExecutor(workers)
    try:
        for batch in itertools.islice(source, 2 * workers + 1):
            pending.append((batch, executor.submit(work, batch)))
        while pending:
            batch, future = pending.popleft()
            result = future.result()
            for following in itertools.islice(source, 1):
                pending.append((following, executor.submit(work, following)))
            yield batch, result
    finally:
        executor.shutdown(cancel_futures=True)


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_batch(
    root: Path,
    entries: Sequence[Entry],
    places: range,
    shape: Shape,
    rule: ShapeRule,
    fitting: Fitting,
    ranges: Ranges,
) -> Decoded:
    pixels = np.empty((len(places), *shape), np.uint8)
    bad: dict[int, str] = {}
    seen = Seen()
    for place, result in _results(root, entries, places, shape, rule, fitting, ranges, seen):
        if isinstance(result, DataError):
            name = entries[place].path
            bad[place] = result.message.removeprefix(f"cannot read the image: {name}: ")
        else:
            pixels[place - places.start - len(bad)] = result
    if seen.bright:
        together = np.concatenate([image.ravel() for image in seen.bright])
        seen.levels.append(Levels.of("8-bit", together, FULL["8-bit"]))
        seen.bright = []
    seen.levels = levels.joined(seen.levels)
    pixels = pixels[: len(places) - len(bad)]
    return Decoded(pixels, bad, list(image_hashes(pixels)), seen)


def _results(
    root: Path,
    entries: Sequence[Entry],
    places: range,
    shape: Shape,
    rule: ShapeRule,
    fitting: Fitting,
    ranges: Ranges,
    seen: Seen,
) -> Iterator[tuple[int, NDArray[np.uint8] | DataError]]:
    """Pixels of each place, or why there are none; pages of one file are read together."""
    for stack, group in itertools.groupby(places, lambda place: entries[place].stack):
        together = list(group)
        if stack is not None:
            pages = [(entries[place].page or 0, entries[place].path) for place in together]
            pictures = image_file.read_pages(root / stack, pages, ranges)
            for place, picture in zip(together, pictures, strict=True):
                if isinstance(picture, DataError):
                    yield place, picture
                else:
                    name = entries[place].path
                    yield place, _fit(picture, shape, rule, fitting, name, seen)
            continue
        for place in together:
            name = entries[place].path
            try:
                yield place, decode(root / name, shape, rule, fitting, name, ranges, seen)
            except DataError as error:
                yield place, error


def decode(
    path: Path,
    shape: Shape,
    rule: ShapeRule,
    fitting: Fitting,
    name: str,
    ranges: Ranges = FULL,
    seen: Seen | None = None,
) -> NDArray[np.uint8]:
    """Read an image file and bring it to `shape`: (C, H, W).

    Most photos take a short way that hardly differs; everything else, and everything that fails
    on it, is left to `image_file.read_image` with its checks and to `image_file.prepare`.

    Raises:
        DataError: as these two.
    """
    seen = Seen() if seen is None else seen
    try:
        data = files.read_capped(path, MAX_IMAGE_BYTES)
    except (OSError, ValueError):
        image_file.read_image(path, name=name)  # says why
        raise
    if (way := fitting.way) is not None:
        try:
            with Image.open(BytesIO(data), formats=_SHORT_WAY) as image:
                if _is_plain(image, shape) and image_file.excess(image, len(data)) is None:
                    return _decode_plain(image, shape, rule, way, ranges, seen)
        except Exception:
            pass
    picture = image_file.read_image(data, name=name, ranges=ranges)
    return _fit(picture, shape, rule, fitting, name, seen)


def _fit(
    picture: Picture, shape: Shape, rule: ShapeRule, fitting: Fitting, name: str, seen: Seen
) -> NDArray[np.uint8]:
    """Bring a decoded picture to `shape`, and take note of it."""
    size = picture.pixels.shape[:2]
    rule.see(size, picture.pixels)
    assert picture.levels is not None
    seen.levels.append(picture.levels)
    seen.animated += picture.first_of_several
    if fitting.way == "crop":
        seen.cut.append(_cut(size, shape))
    pixels, _ = image_file.prepare(
        picture,
        shape,
        border=fitting.border,
        digits=fitting.digits,
        fit=fitting.fit,
        set_fit=fitting.set_fit,
        invert=fitting.invert,
        name=name,
    )
    return pixels.numpy()


def _cut(size: tuple[int, ...], shape: Shape) -> float:
    """Share of a picture of this height and width that cropping it to `shape` drops."""
    height, width = size[0], size[1]
    if (height, width) == shape[1:]:
        return 0.0
    left, top, right, bottom = image_file.centre_box((width, height), shape[2] / shape[1])
    return 1 - (right - left) * (bottom - top) / (width * height)


def _is_plain(image: Image.Image, shape: Shape) -> bool:
    """Whether nothing but cropping and resizing a JPEG, or not even that, is to be done."""
    _, height, width = shape
    return (
        image.mode in ("L", "RGB")
        and (image.format == "JPEG" or image.size == (width, height))
        and "transparency" not in image.info
        and not getattr(image, "is_animated", False)
    )


def _decode_plain(
    image: Image.Image, shape: Shape, rule: ShapeRule, way: SetFit, ranges: Ranges, seen: Seen
) -> NDArray[np.uint8]:
    channels, height, width = shape
    # a JPEG decodes at 1/2, 1/4 or 1/8 for less; what is left is for the antialiased resize
    image.draft(image.mode, (math.ceil(DRAFT * width), math.ceil(DRAFT * height)))
    image.load()
    if not _TURNING.isdisjoint(image.info):
        ImageOps.exif_transpose(image, in_place=True)
    size, span = (image.height, image.width), ranges.get("8-bit", FULL["8-bit"])
    decides = span != FULL["8-bit"] or not (
        rule.bright and (rule.knows_colour or image.mode == "L")
    )
    if decides:  # copied before they are resized only then: it takes time
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
        image, _ = image_file.fitted(image, (width, height), way)
    pixels = _pixels(image)
    rule.see(size, values if decides else pixels)
    if decides:
        seen.levels.append(found)
    else:
        seen.bright.append(pixels)
    if way == "crop":
        seen.cut.append(_cut(size, shape))
    return pixels.transpose(2, 0, 1)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """A grey or RGB image as (H, W, C)."""
    return np.asarray(image).reshape(image.height, image.width, -1)
