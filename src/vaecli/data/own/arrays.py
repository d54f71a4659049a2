"""Images in one file of numbers: `.npy`, `.npz`, a table or an idx file, never as objects."""

from __future__ import annotations

import csv
import itertools
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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecli.data import layout, npy
from vaecli.data.image_file import has_colour
from vaecli.data.layout import Account, ArrayPart, Split
from vaecli.data.levels import Levels, Ranges, SampleType, joined, to_bytes
from vaecli.data.named import idx
from vaecli.data.own import tables
from vaecli.data.own.folder import Entry
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.limits import MAX_ARCHIVE_MEMBERS, MAX_ARRAY_IMAGES

SUFFIXES = (".npy", ".npz", *tables.SUFFIXES)
_BATCH = 32
"""Images read together: each brings its neighbours on the disk into memory."""
_UNLIMITED = (-math.inf, math.inf)
# what zipfile and its decompressors raise; a password needed is a RuntimeError
_DAMAGE = (
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    zipfile.BadZipFile,
    csv.Error,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
_HINT = "Save images of shape (N,H,W), (N,H,W,C) or (N,C,H,W) with numpy.save, C being 1 or 3."


@dataclass(frozen=True)
class _Part:
    """The images of one array.

    Attributes:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W); of a .npy it stays on the disk.
        labels: the name of each image's class, or None.
        split: what its name says.
        unmap: gives the memory of what was read from the disk back.
    """

    name: str
    array: NDArray[Any]
    labels: list[str] | None
    split: Split | None = None
    unmap: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class ArrayFile:
    """The images of a file, by the path of their entries, `name[17]`.

    Attributes:
        entries: one for each image, in order.
        account: what became of everything in the file.
    """

    location: Path
    parts: Mapping[str, _Part]
    entries: list[Entry]
    account: Account

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return _image_shape(next(iter(self.parts.values())).array)

    def scan(self) -> tuple[list[Levels], bool]:
        """The values of all images, and whether a pixel of any is not grey.

        Raises:
            DataError: some of them are no numbers.
        """
        found = list[Levels]()
        coloured = False
        for part in self.parts.values():
            samples = _sample_type(part.array)
            for start in range(0, len(part.array), _BATCH):
                images = part.array[start : start + _BATCH]
                levels = Levels.of(samples, images, _UNLIMITED)
                if not math.isfinite(levels.lowest + levels.highest):
                    self._refuse(part, start, images)
                found = joined([*found, levels])
                if not coloured:
                    first = _channels_first(images, part.array.shape)
                    coloured = has_colour(np.moveaxis(first, 1, -1))
                part.unmap()
        return found, coloured

    def pixels(
        self, order: list[Entry], ranges: Ranges
    ) -> Iterator[tuple[NDArray[np.uint8], Levels]]:
        """The images of `order` as (n, C, H, W) uint8, some at a time, and their values."""
        for start in range(0, len(order), _BATCH):
            chosen = [self._at(entry.path) for entry in order[start : start + _BATCH]]
            for samples, group in itertools.groupby(chosen, _sample_type):
                images = np.concatenate(list(group))
                span = ranges[samples]
                yield to_bytes(images, span), Levels.of(samples, images, span)
            for part in self.parts.values():
                part.unmap()

    def _at(self, path: str) -> NDArray[Any]:
        """An image as (1, C, H, W)."""
        name, _, place = path.removesuffix("]").rpartition("[")
        array = self.parts[name].array
        return _channels_first(array[int(place)][None], array.shape)

    def _refuse(self, part: _Part, start: int, images: NDArray[Any]) -> None:
        """DataError with the place of the first value that is no number."""
        image, *place = np.argwhere(~np.isfinite(images))[0]
        value = images[(image, *place)]
        raise DataError(
            f"--data {self.location}: {part.name}[{start + image}]: the value at"
            f" [{', '.join(map(str, place))}] is {value}",
            "Replace the values that are no numbers.",
        )


def open_arrays(path: Path, memory: int) -> ArrayFile:
    """Look at the arrays of a file.

    Args:
        path: a file of which `is_arrays` is true.
        memory: largest size in bytes of an array; a `.npy` stays on the disk and may be larger.

    Raises:
        DataError: it is damaged, holds objects, or no array has the shape of images.
    """
    notes: list[str] = []
    left_out: dict[str, int] = {}
    try:
        parts = {part.name: part for part in _open(path, memory, notes, left_out)}
        _check(list(parts.values()))
    except _DAMAGE as error:
        reason = str(error).strip("'\" ").rstrip(".") or type(error).__name__
        raise DataError(f"--data {path}: {reason[:300]}", _HINT) from None
    except OSError as error:
        raise DataError(
            f"--data {path}: {error.strerror or error}", "Check the path and its permissions."
        ) from None
    status = path.stat()
    identity = files.identity_of(path, status)
    entries = [
        Entry(
            f"{part.name}[{place}]",
            status.st_size,
            status.st_mtime_ns,
            None if part.labels is None else part.labels[place],
            part.split,
            identity=identity,
        )
        for part in parts.values()
        for place in range(len(part.array))
    ]
    if not entries:
        raise DataError(f"--data {path}: there are no images in it", _HINT)
    sources = {part.split: part.name for part in parts.values() if part.split is not None}
    return ArrayFile(path, parts, entries, Account(sources, left_out, tuple(notes)))


def is_arrays(path: Path) -> bool:
    """Whether a file is one of numbers, by its suffix; an idx file by its first bytes."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) or (path.is_file() and idx.is_idx(path))


def stem_of(path: Path) -> str:
    """The name of a file without the suffix that says what it is."""
    return re.sub(r"(\.(npy|npz|csv|tsv|amat|gz))+$", "", path.name, flags=re.IGNORECASE)


def _open(path: Path, memory: int, notes: list[str], left_out: dict[str, int]) -> list[_Part]:
    name = path.name.lower()
    if name.endswith(".npy"):
        return _npy(path, notes)
    if name.endswith(".npz"):
        return _npz(path, memory, notes, left_out)
    if name.endswith(tables.SUFFIXES):
        table = tables.read_table(path, memory)
        notes += table.notes
        return [_Part(stem_of(path), table.pixels, table.labels)]
    return _idx(path, memory, notes)


def _idx(path: Path, memory: int, notes: list[str]) -> list[_Part]:
    pixels = idx.read_idx(path, memory)
    if pixels.ndim != 3:
        raise ValueError("it holds labels: give the file of the images, which is read with it")
    labels = idx.labels_beside(path, len(pixels))
    if labels is None:
        notes.append("no file of labels lies beside it")
    names = None if labels is None else [str(label) for label in labels.tolist()]
    return [_Part(stem_of(path), pixels.numpy(), names)]


def _npy(path: Path, notes: list[str]) -> list[_Part]:
    with files.open_regular(path) as file:
        shape, fortran, dtype = npy.read_header(file)
        start, size = file.tell(), math.prod(shape) * dtype.itemsize
        found = os.fstat(file.fileno()).st_size
        if found != start + size:
            raise ValueError(f"damaged: it has {found:,} bytes, not {start + size:,}")
        mapping, unmap = files.map_readonly(file)
    array = np.frombuffer(mapping, np.uint8, size, start).view(dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    images = _as_images(path.stem, array, notes, alone=True)
    return [_Part(path.stem, images, None, None, unmap)]


def _as_images(name: str, array: NDArray[Any], notes: list[str], *, alone: bool) -> NDArray[Any]:
    """The array with a shape of images; rows of numbers become square images."""
    shape = layout.shape_of_images(array.shape, alone=alone)
    if shape != array.shape:
        notes.append(
            f"each row of {name}, {array.shape[1]:,} values, is an image of {shape[1]}x{shape[2]}"
        )
    return array.reshape(shape)


@dataclass(frozen=True)
class _Member:
    """An array in a .npz whose header was read: name of the file, shape, order and type."""

    file: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def _npz(path: Path, memory: int, notes: list[str], left_out: dict[str, int]) -> list[_Part]:
    """The images and labels of a .npz; nothing else in it is read beyond its header."""
    with files.open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
        if len(archive.infolist()) > MAX_ARCHIVE_MEMBERS:
            raise ValueError(f"it holds more than {MAX_ARCHIVE_MEMBERS:,} files")
        members: dict[str, _Member] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            try:
                if name == info.filename:
                    raise npy.NotNumbersError("it is no array")
                with archive.open(info) as file:
                    members[name] = _Member(info.filename, *npy.read_header(file))
            except npy.NotNumbersError as error:
                if layout.is_image_name(name):
                    raise ValueError(f"{info.filename}: {error}") from None
                left_out[f"member {name}: {error}"] = 1
        chosen = _chosen(members)
        used = {name for part in chosen for name in (part.images, part.labels)}
        for name in members.keys() - used:
            left_out[f"array {name}: neither images nor their labels"] = 1
        parts = []
        for part in chosen:
            array, labels = _read(archive, members[part.images], memory), None
            alone = len(chosen) == 1 and part.labels is None
            array = _as_images(part.images, array, notes, alone=alone)
            if part.labels is not None:
                labels = _classes(part.labels, _read(archive, members[part.labels], memory), notes)
            parts.append(_Part(part.images, array, labels, part.split))
        return parts


def _read(archive: zipfile.ZipFile, member: _Member, memory: int) -> NDArray[Any]:
    with archive.open(member.file) as file:
        npy.read_header(file)
        size = math.prod(member.shape) * member.dtype.itemsize
        if size > memory:
            raise ValueError(
                f"{member.file} has {size:,} bytes, more than the {memory:,} that are held in"
                " memory: save it as .npy"
            )
        data = file.read(size)
        if len(data) != size or file.read(1):
            raise ValueError(f"damaged: {member.file} does not have {size:,} bytes")
    order: Literal["F", "C"] = "F" if member.fortran else "C"
    return np.frombuffer(data, member.dtype).reshape(member.shape, order=order)


def _chosen(members: Mapping[str, _Member]) -> list[ArrayPart]:
    """The arrays of images with their labels, by the names that are in use.

    Raises:
        ValueError: none is found.
    """
    numbers = {
        name: member.shape for name, member in members.items() if member.dtype.kind in "buif"
    }
    images = {name for name, shape in numbers.items() if len(shape) in (3, 4)}
    images |= {
        name for name, shape in numbers.items() if len(shape) == 2 and layout.is_image_name(name)
    }
    if chosen := layout.understand_arrays(members, images):
        return chosen
    known = ", ".join(list(members)[:10]) or "nothing"
    raise ValueError(f"it holds {known}: no array is named images, x, x_train or the like")


def _classes(name: str, labels: NDArray[Any], notes: list[str]) -> list[str] | None:
    """The name of each image's class: from numbers, texts, or rows with a single 1 (one-hot).

    Args:
        name: of the array.
        labels: (N,), (N, 1), or (N, K) one-hot.
        notes: told why labels cannot be used.
    """
    rows = labels.reshape(len(labels), -1)
    if rows.dtype.kind in "SU" and rows.shape[1] == 1:
        texts = rows[:, 0]
        return [
            text.decode("utf-8", "replace") if isinstance(text, bytes) else text
            for text in texts.tolist()
        ]
    if rows.dtype.kind in "buif" and bool((rows == np.trunc(rows)).all()):  # NaN is unequal
        if rows.shape[1] == 1 and bool((abs(rows) < 10**18).all()):
            return [str(int(label)) for label in rows[:, 0].tolist()]
        if rows.shape[1] > 1 and bool(
            ((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()
        ):
            return [str(label) for label in rows.argmax(1).tolist()]
    shape = "x".join(map(str, labels.shape))
    notes.append(
        f"{name} ({shape} {labels.dtype}) cannot be used as labels: neither one whole number or"
        " text for each image, nor rows of zeros with a single 1"
    )
    return None


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
        if part.array.dtype.kind not in "buif":
            raise ValueError(f"{part.name} has the type {part.array.dtype}, not one of numbers")
        if part.labels is not None and len(part.labels) != len(part.array):
            raise ValueError(f"{part.name} has {len(part.array):,} images, but not as many labels")


def _image_shape(array: NDArray[Any]) -> tuple[int, int, int]:
    shape = array.shape
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) == 4 and _channels_last(shape):
        return shape[3], shape[1], shape[2]
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape[1], shape[2], shape[3]
    raise ValueError(f"its shape {shape} is not that of images")


def _sample_type(array: NDArray[Any]) -> SampleType:
    sizes: dict[str, SampleType] = {"bool": "1-bit", "uint8": "8-bit", "uint16": "16-bit"}
    return sizes.get(array.dtype.name, "float" if array.dtype.kind == "f" else "integer")


def _channels_first(images: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Images of an array of this shape as (n, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if _channels_last(shape) else images


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
