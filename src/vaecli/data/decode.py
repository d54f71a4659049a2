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

from vaecli import files, images
from vaecli.digit_fit import Invert
from vaecli.errors import DataError
from vaecli.images import Fit
from vaecli.limits import MAX_IMAGE_BYTES

VERSION = 1
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
    """How a picture is brought to a shape; arguments of `images.prepare`."""

    border: int = WHITE
    digits: bool = False
    fit: Fit = "crop"
    invert: Invert = "no"


@dataclass
class ShapeRule:
    """The shape of prepared images, as asked for or as found in those seen so far.

    Attributes:
        size: height and width asked for, or None: the images' own when all agree and neither
            side is longer than `DEFAULT_SIZE`, which is taken otherwise.
        channels: 1 or 3 asked for, or None: 3 as soon as one image has colour.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    _sizes: set[tuple[int, int]] = field(default_factory=set)
    _colour: bool = False

    def see(self, size: tuple[int, ...], *, colour: bool) -> None:
        """Take note of an image of this height and width; threads may do so at once."""
        if len(self._sizes) < 2:
            self._sizes.add((size[0], size[1]))
        if colour:
            self._colour = True

    @property
    def shape(self) -> Shape:
        """Channels, height, width after what was seen."""
        size = self.size
        if size is None and len(self._sizes) == 1:
            size = next(iter(self._sizes))
            size = size if max(size) <= DEFAULT_SIZE else None
        return (self.channels or (3 if self._colour else 1), *(size or (DEFAULT_SIZE,) * 2))


@dataclass(frozen=True)
class Decoded:
    """What became of some files: (n, C, H, W) uint8, and why others are missing, by place."""

    pixels: NDArray[np.uint8]
    bad: dict[int, str]


class ShapeChangedError(Exception):
    """An image was found that changes what `ShapeRule` says: start again."""


def decode_all(
    root: Path,
    names: Sequence[str],
    rule: ShapeRule,
    fitting: Fitting,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Decoded]:
    """Decode files in order, some at a time.

    Args:
        root: the folder.
        names: paths in it.
        rule: gives the shape, and learns from the images.
        fitting: how they are brought to it.
        progress: told (done, total).

    Raises:
        ShapeChangedError: the shape is another than it seemed; what came so far is void.
    """
    shape = rule.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked by us, and threads share the filters
        batches = [range(i, min(i + _BATCH, len(names))) for i in range(0, len(names), _BATCH)]

        def work(places: range) -> Decoded:
            return _decode_batch(root, names, places, shape, rule, fitting)

        for places, decoded in _in_order(work, batches):
            if rule.shape != shape:
                raise ShapeChangedError
            progress(places.stop, len(names))
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
    names: Sequence[str],
    places: range,
    shape: Shape,
    rule: ShapeRule,
    fitting: Fitting,
) -> Decoded:
    pixels = np.empty((len(places), *shape), np.uint8)
    bad: dict[int, str] = {}
    for place in places:
        name = names[place]
        try:
            decoded = decode(root / name, shape, rule, fitting, name)
            pixels[place - places.start - len(bad)] = decoded
        except DataError as error:
            bad[place] = error.message.removeprefix(f"cannot read the image: {name}: ")
    return Decoded(pixels[: len(places) - len(bad)], bad)


def decode(
    path: Path, shape: Shape, rule: ShapeRule, fitting: Fitting, name: str
) -> NDArray[np.uint8]:
    """Read an image file and bring it to `shape`: (C, H, W).

    Most photos take a short way that hardly differs; everything else, and everything that fails
    on it, is left to `images.read_image` with its checks and to `images.prepare`.

    Raises:
        DataError: as these two.
    """
    try:
        data = files.read_capped(path, MAX_IMAGE_BYTES)
    except (OSError, ValueError):
        images.read_image(path, name=name)  # says why
        raise
    if fitting == Fitting():
        try:
            with Image.open(BytesIO(data), formats=_SHORT_WAY) as image:
                if _is_plain(image, shape) and images.excess(image, len(data)) is None:
                    return _decode_plain(image, shape, rule)
        except Exception:
            pass
    picture = images.read_image(data, name=name)
    rule.see(picture.pixels.shape[:2], colour=picture.pixels.shape[2] == 3)
    pixels, _ = images.prepare(
        picture,
        shape,
        border=fitting.border,
        digits=fitting.digits,
        fit=fitting.fit,
        invert=fitting.invert,
        name=name,
    )
    return pixels.numpy()


def _is_plain(image: Image.Image, shape: Shape) -> bool:
    """Whether nothing but cropping and resizing a JPEG, or not even that, is to be done."""
    _, height, width = shape
    return (
        image.mode in ("L", "RGB")
        and (image.format == "JPEG" or image.size == (width, height))
        and "transparency" not in image.info
        and not getattr(image, "is_animated", False)
    )


def _decode_plain(image: Image.Image, shape: Shape, rule: ShapeRule) -> NDArray[np.uint8]:
    channels, height, width = shape
    # a JPEG decodes at 1/2, 1/4 or 1/8 for less; what is left is for the antialiased resize
    image.draft(image.mode, (math.ceil(DRAFT * width), math.ceil(DRAFT * height)))
    image.load()
    if not _TURNING.isdisjoint(image.info):
        ImageOps.exif_transpose(image, in_place=True)
    rule.see((image.height, image.width), colour=image.mode == "RGB")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
