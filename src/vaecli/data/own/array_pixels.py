"""The images of array files as 8-bit pixels: channel order, alpha, ranges of values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecli.data.image_file import has_colour
from vaecli.data.levels import Levels, Range, Ranges, SampleType, decide, joined, to_bytes
from vaecli.data.own.folder import Entry
from vaecli.data.splits_and_classes import Account, Split
from vaecli.errors import DataError

RGBA = 4
_BATCH = 32
"""Images read together: each brings its neighbours on the disk into memory."""
_UNLIMITED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Part:
    """The images of one array.

    Attributes:
        name: of the array in its file.
        array: (N, H, W), (N, H, W, C) or (N, C, H, W), or (N, H, W, 4) with alpha; that of a
            .npy is mapped from the disk.
        labels: the name of each image's class, or None.
        split: the one its name says, or None.
        unmap: frees the memory that pages read from the disk take.
    """

    name: str
    array: NDArray[Any]
    labels: list[str] | None
    split: Split | None = None
    unmap: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Scan:
    """The values in all images of a file.

    Attributes:
        levels: their ranges, by sample type; alpha apart.
        coloured: whether a pixel anywhere is not grey.
        opacity: the alpha values that mean transparent and opaque; None without alpha.
    """

    levels: list[Levels]
    coloured: bool
    opacity: Range | None


@dataclass(frozen=True)
class ArrayFile:
    """The images of an array file; the path of an entry is `name[17]`, image 17 of array `name`.

    Attributes:
        location: the file.
        parts: its arrays of images, by name.
        entries: one for each image, in order.
        account: what became of everything in the file.
    """

    location: Path
    parts: Mapping[str, Part]
    entries: list[Entry]
    account: Account

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return image_shape(next(iter(self.parts.values())).array)

    def scan(self) -> Scan:
        """Find the ranges of values in all images.

        Raises:
            DataError: a value is NaN or infinite, or every pixel is transparent.
        """
        ranges, opacities = list[Levels](), list[Levels]()
        coloured = False
        for part in self.parts.values():
            samples = _sample_type(part.array)
            for start in range(0, len(part.array), _BATCH):
                images = part.array[start : start + _BATCH]
                colours, alpha = _without_alpha(_channels_first(images, part.array.shape))
                levels = Levels.of(samples, colours, _UNLIMITED)
                ends = levels.lowest + levels.highest
                if alpha is not None:
                    opacity = Levels.of(samples, alpha, _UNLIMITED)
                    opacities = joined([*opacities, opacity])
                    ends += opacity.lowest + opacity.highest
                if not math.isfinite(ends):
                    raise self._not_finite(part, start, images)
                ranges = joined([*ranges, levels])
                coloured = coloured or has_colour(np.moveaxis(colours, 1, -1))
                part.unmap()
        opacity_range = self._opacity(opacities)
        if opacity_range and any(levels.lowest < opacity_range[1] for levels in opacities):
            ranges = [_with_ground(levels) for levels in ranges]
        return Scan(ranges, coloured, opacity_range)

    def pixels(
        self, order: list[Entry], ranges: Ranges, opacity: Range | None, ground: int
    ) -> Iterator[tuple[NDArray[np.uint8], Levels]]:
        """The images of `order` as (n, C, H, W) uint8, a batch at a time, and their levels.

        Args:
            order: the images wanted.
            ranges: values that mean black and white.
            opacity: alpha values that mean transparent and opaque.
            ground: grey level behind transparent pixels.
        """
        for start in range(0, len(order), _BATCH):
            chosen = [self._at(entry.path) for entry in order[start : start + _BATCH]]
            for (samples, _), group in itertools.groupby(chosen, _type_and_channels):
                colours, alpha = _without_alpha(np.concatenate(list(group)))
                span = ranges[samples]
                pixels, levels = to_bytes(colours, span), Levels.of(samples, colours, span)
                if alpha is not None:
                    assert opacity is not None
                    shares = to_bytes(alpha, opacity)
                    pixels = _composed(pixels, shares, ground)
                    levels = levels if shares.min() == 255 else _with_ground(levels)
                yield pixels, levels
            for part in self.parts.values():
                part.unmap()

    def _opacity(self, alphas: list[Levels]) -> Range | None:
        """The alpha values that mean transparent and opaque."""
        if not alphas:
            return None
        if all(levels.highest <= 0 for levels in alphas):
            raise DataError(
                f"--data {self.location}: its fourth channel, read as alpha, is 0 everywhere:"
                " every pixel is transparent",
                "Save the first three channels alone.",
            )
        try:
            (decided,) = {*decide(alphas, "auto", {}).values()}
        except ValueError as error:
            raise DataError(
                f"--data {self.location}: its fourth channel, read as alpha: {error}",
                "Save the first three channels alone.",
            ) from None
        return decided

    def _at(self, path: str) -> NDArray[Any]:
        """An image as (1, C, H, W)."""
        name, _, place = path.removesuffix("]").rpartition("[")
        array = self.parts[name].array
        return _channels_first(array[int(place)][None], array.shape)

    def _not_finite(self, part: Part, start: int, images: NDArray[Any]) -> DataError:
        """An error that names the first value that is NaN or infinite."""
        image, *place = np.argwhere(~np.isfinite(images))[0]
        value = images[(image, *place)]
        return DataError(
            f"--data {self.location}: {part.name}[{start + image}]: the value at"
            f" [{', '.join(map(str, place))}] is {value}",
            "Replace NaN and infinite values.",
        )


def image_shape(array: NDArray[Any]) -> tuple[int, int, int]:
    """Channels without alpha, height, width."""
    shape = array.shape
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) == 4 and channels_last(shape):
        return min(shape[3], 3), shape[1], shape[2]
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape[1], shape[2], shape[3]
    raise ValueError(f"its shape {shape} is not an image shape")


def _sample_type(array: NDArray[Any]) -> SampleType:
    sizes: dict[str, SampleType] = {"bool": "1-bit", "uint8": "8-bit", "uint16": "16-bit"}
    return sizes.get(array.dtype.name, "float" if array.dtype.kind == "f" else "integer")


def _channels_first(images: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Images of an array of this shape as (n, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if channels_last(shape) else images


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is (N, H, W, C)."""
    return len(shape) == 4 and shape[3] in (1, 3, RGBA) and shape[1] not in (1, 3)


def _type_and_channels(image: NDArray[Any]) -> tuple[SampleType, int]:
    return _sample_type(image), image.shape[1]


def _without_alpha(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Grey or colour of (n, C, H, W), and alpha (n, 1, H, W) where there is some."""
    return (images[:, :3], images[:, 3:]) if images.shape[1] == RGBA else (images, None)


def _composed(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], ground: int
) -> NDArray[np.uint8]:
    """Blend pixels with a ground of one grey level, rounding as for picture files."""
    shares = alpha.astype(np.uint32)
    return ((pixels * shares + ground * (255 - shares) + 127) // 255).astype(np.uint8)


def _with_ground(levels: Levels) -> Levels:
    """The levels when transparent pixels show the ground, which may be white."""
    if levels.samples == "float":
        return levels
    return replace(levels, highest=max(levels.highest, levels.full[1]))
