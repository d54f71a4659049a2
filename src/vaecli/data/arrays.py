"""Images in a `.npy` or `.npz` file, read after a look at the header, as plain numbers."""

from __future__ import annotations

import lzma
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecli import files, npy
from vaecli.data.folder import Entry, Split
from vaecli.errors import DataError
from vaecli.limits import MAX_ARCHIVE_MEMBERS, MAX_ARRAY_IMAGES

SUFFIXES = (".npy", ".npz")
_PAIRS = {"x": "y", "images": "labels"}
"""Names of images and labels in a .npz, alone or with a split before or behind."""
_BATCH = 32
"""Images read together: each brings its neighbours on the disk into memory."""
# what zipfile and its decompressors raise; a password needed is a RuntimeError
_DAMAGE = (
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
_HINT = (
    "Save uint8 images of shape (N,H,W), (N,H,W,C) or (N,C,H,W) with numpy.save, C being 1 or 3."
)


@dataclass(frozen=True)
class _Part:
    """The images of one array.

    Attributes:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W); of a .npy it stays on the disk.
        labels: (N,) whole numbers, or None.
        split: what its name says.
        unmap: gives the memory of what was read from the disk back.
    """

    name: str
    array: NDArray[Any]
    labels: NDArray[Any] | None
    split: Split | None = None
    unmap: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class ArrayFile:
    """The images of a file, by the path of their entries, `name[17]`.

    Attributes:
        entries: one for each image, in order.
        notes: what a person should know.
    """

    location: Path
    parts: Mapping[str, _Part]
    entries: list[Entry]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return _image_shape(next(iter(self.parts.values())).array)

    def pixels(self, order: list[Entry]) -> Iterator[NDArray[np.uint8]]:
        """The images of `order` as (n, C, H, W) uint8, some at a time."""
        for start in range(0, len(order), _BATCH):
            yield np.stack([self._image(entry.path) for entry in order[start : start + _BATCH]])
            for part in self.parts.values():
                part.unmap()

    def _image(self, path: str) -> NDArray[np.uint8]:
        name, _, place = path.removesuffix("]").rpartition("[")
        array = self.parts[name].array
        image = array[int(place)]
        if image.dtype != np.uint8:
            low, high = float(image.min()), float(image.max())
            if not (low >= 0 and high <= 1):  # NaN fails as well
                raise DataError(
                    f"--data {self.location}: {path}: its values run from {low:g} to {high:g},"
                    " not from 0 to 1",
                    "Give uint8 values from 0 to 255, or floats from 0 to 1.",
                )
            image = np.rint(image.astype(np.float64) * 255).astype(np.uint8)
        if image.ndim == 2:
            image = image[None]
        elif _channels_last(array.shape):
            image = image.transpose(2, 0, 1)
        return np.asarray(image, np.uint8)


def open_arrays(path: Path, memory: int) -> ArrayFile:
    """Look at the arrays of a file.

    Args:
        path: a `.npy` or `.npz` file.
        memory: largest size in bytes of an array in a .npz, which cannot stay on the disk.

    Raises:
        DataError: it is damaged, holds objects, or no array has the shape of images.
    """
    try:
        read = _npy(path) if path.suffix.lower() == ".npy" else _parts(_npz(path, memory))
        parts = {part.name: part for part in read}
        _check(list(parts.values()))
    except _DAMAGE as error:
        reason = str(error).strip("'\" ").rstrip(".") or type(error).__name__
        raise DataError(f"--data {path}: {reason[:300]}", _HINT) from None
    except OSError as error:
        raise DataError(
            f"--data {path}: {error.strerror or error}", "Check the path and its permissions."
        ) from None
    status = path.stat()
    entries = [
        Entry(
            f"{part.name}[{place}]",
            status.st_size,
            status.st_mtime_ns,
            None if part.labels is None else str(part.labels[place]),
            part.split,
        )
        for part in parts.values()
        for place in range(len(part.array))
    ]
    if not entries:
        raise DataError(f"--data {path}: there are no images in it", _HINT)
    floats = any(part.array.dtype != np.uint8 for part in parts.values())
    notes = ("floats from 0 to 1 were rounded to 256 levels",) if floats else ()
    return ArrayFile(path, parts, entries, notes)


def _npy(path: Path) -> list[_Part]:
    with files.open_regular(path) as file:
        shape, fortran, dtype = npy.read_header(file)
        start, size = file.tell(), math.prod(shape) * dtype.itemsize
        found = os.fstat(file.fileno()).st_size
        if found != start + size:
            raise ValueError(f"damaged: it has {found:,} bytes, not {start + size:,}")
        mapping, unmap = files.map_readonly(file)
    array = np.frombuffer(mapping, np.uint8, size, start).view(dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return [_Part(path.stem, array, None, None, unmap)]


def _npz(path: Path, memory: int) -> dict[str, NDArray[Any]]:
    named = {}
    with files.open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
        if len(archive.infolist()) > MAX_ARCHIVE_MEMBERS:
            raise ValueError(f"it holds more than {MAX_ARCHIVE_MEMBERS:,} files")
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                shape, fortran, dtype = npy.read_header(file)
                size = math.prod(shape) * dtype.itemsize
                if size > memory:
                    raise ValueError(
                        f"{member.filename} has {size:,} bytes, more than the {memory:,} that are"
                        " held in memory: save it as .npy"
                    )
                data = file.read(size)
                if len(data) != size or file.read(1):
                    raise ValueError(f"damaged: {member.filename} does not have {size:,} bytes")
            array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
            named[member.filename.removesuffix(".npy")] = array
    return named


def _parts(named: dict[str, NDArray[Any]]) -> list[_Part]:
    """Arrays of images with what belongs to them, by the names that are in use.

    Raises:
        ValueError: none is found.
    """
    chosen = list(_by_name(named))
    if chosen:
        return chosen
    pictures = [name for name, array in named.items() if array.ndim in (3, 4)]
    if len(pictures) != 1:
        known = ", ".join(list(named)[:10]) or "nothing"
        raise ValueError(f"it holds {known}: no array is named images, x, x_train or the like")
    return [_Part(pictures[0], named[pictures[0]], None)]


def _check(parts: list[_Part]) -> None:
    """ValueError unless all have images of one shape, of a type that is taken, and their labels."""
    if (count := sum(len(part.array) for part in parts)) > MAX_ARRAY_IMAGES:
        raise ValueError(f"it holds {count:,} images, more than {MAX_ARRAY_IMAGES:,}")
    shapes = {_image_shape(part.array) for part in parts}
    if any(not math.prod(shape) for shape in shapes):
        raise ValueError("its images have no pixels")
    if len(shapes) > 1:
        raise ValueError(f"its arrays have images of different shapes: {sorted(shapes)}")
    for part in parts:
        if part.array.dtype != np.uint8 and part.array.dtype.kind != "f":
            raise ValueError(f"{part.name} has the type {part.array.dtype}, not uint8 or float")
        if part.labels is not None and part.labels.shape != part.array.shape[:1]:
            raise ValueError(f"{part.name} has {len(part.array):,} images, but not as many labels")


def _by_name(named: dict[str, NDArray[Any]]) -> Iterator[_Part]:
    """`images` and `labels`, `x_train` and `y_train`, `train_images` and `train_labels`, ..."""
    splits: dict[str, Split] = {"train": "train", "test": "test"}
    if not any("test" in name for name in named):
        splits["val"] = "test"
    for name, array in named.items():
        stem, split = name, None
        if match := re.fullmatch(r"(x|images)_(\w+)|(\w+)_(x|images)", name):
            stem, word = (match[1], match[2]) if match[1] else (match[4], match[3])
            if word not in splits:
                continue
            split = splits[word]
        if stem in _PAIRS:
            partner = named.get(name.replace(stem, _PAIRS[stem]))
            labels = None if partner is None else partner.reshape(len(partner), -1)
            if labels is not None and (labels.shape[1] != 1 or labels.dtype.kind not in "iu"):
                labels = None
            yield _Part(name, array, None if labels is None else labels[:, 0], split)


def _image_shape(array: NDArray[Any]) -> tuple[int, int, int]:
    shape = array.shape
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) == 4 and _channels_last(shape):
        return shape[3], shape[1], shape[2]
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape[1], shape[2], shape[3]
    raise ValueError(f"its shape {shape} is not that of images")


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
