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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecli.data import layout, npy
from vaecli.data.image_file import has_colour
from vaecli.data.layout import Account, ArrayPart, Split
from vaecli.data.levels import Levels, Range, Ranges, SampleType, decide, joined, to_bytes
from vaecli.data.named import idx
from vaecli.data.own import tables
from vaecli.data.own.folder import Entry
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.limits import MAX_ARCHIVE_MEMBERS, MAX_ARRAY_IMAGES

SUFFIXES = (".npy", ".npz", *tables.SUFFIXES)
_RGBA = 4
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
_HINT = (
    "Save images of shape (N,H,W), (N,H,W,C) or (N,C,H,W) with numpy.save, C being 1 or 3; or of"
    " shape (N,H,W,4), with alpha."
)


@dataclass(frozen=True)
class _Part:
    """The images of one array.

    Attributes:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W), or (N, H, W, 4) with alpha; of a .npy it
            stays on the disk.
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
class Scan:
    """What the values of all images in a file are.

    Attributes:
        levels: the ranges of grey and colour.
        coloured: whether a pixel anywhere is not grey.
        opacity: values of alpha that mean transparent and opaque; None without alpha.
    """

    levels: list[Levels]
    coloured: bool
    opacity: Range | None


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

    def scan(self) -> Scan:
        """Look at the values of all images.

        Raises:
            DataError: some of them are no numbers, or every pixel is transparent.
        """
        found, opacities = list[Levels](), list[Levels]()
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
                    self._refuse(part, start, images)
                found = joined([*found, levels])
                coloured = coloured or has_colour(np.moveaxis(colours, 1, -1))
                part.unmap()
        opacity_range = self._opacity(opacities)
        if opacity_range and any(levels.lowest < opacity_range[1] for levels in opacities):
            found = [_on_a_ground(levels) for levels in found]
        return Scan(found, coloured, opacity_range)

    def pixels(
        self, order: list[Entry], ranges: Ranges, opacity: Range | None, ground: int
    ) -> Iterator[tuple[NDArray[np.uint8], Levels]]:
        """The images of `order` as (n, C, H, W) uint8, some at a time, and their values.

        Args:
            order: which, in order.
            ranges: values that mean black and white.
            opacity: values of alpha that mean transparent and opaque.
            ground: grey level that transparent pixels are put on.
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
                    levels = levels if shares.min() == 255 else _on_a_ground(levels)
                yield pixels, levels
            for part in self.parts.values():
                part.unmap()

    def _opacity(self, found: list[Levels]) -> Range | None:
        """The values of alpha that mean transparent and opaque."""
        if not found:
            return None
        if all(levels.highest <= 0 for levels in found):
            raise DataError(
                f"--data {self.location}: its fourth channel, taken for alpha, is 0 everywhere:"
                " every pixel is transparent",
                "Save the first three channels alone.",
            )
        try:
            (decided,) = {*decide(found, "auto", {}).values()}
        except ValueError as error:
            raise DataError(
                f"--data {self.location}: its fourth channel, taken for alpha: {error}",
                "Save the first three channels alone.",
            ) from None
        return decided

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
    if _channels_last(shape) and shape[3] == _RGBA:
        notes.append(f"the fourth channel of {name} is alpha")
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
    """Channels without alpha, height, width."""
    shape = array.shape
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) == 4 and _channels_last(shape):
        return min(shape[3], 3), shape[1], shape[2]
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
    return len(shape) == 4 and shape[3] in (1, 3, _RGBA) and shape[1] not in (1, 3)


def _type_and_channels(image: NDArray[Any]) -> tuple[SampleType, int]:
    return _sample_type(image), image.shape[1]


def _without_alpha(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Grey or colour of (n, C, H, W), and alpha (n, 1, H, W) where there is some."""
    return (images[:, :3], images[:, 3:]) if images.shape[1] == _RGBA else (images, None)


def _composed(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], ground: int
) -> NDArray[np.uint8]:
    """Pixels in front of an even ground, rounded to the nearest level as for picture files."""
    shares = alpha.astype(np.uint32)
    return ((pixels * shares + ground * (255 - shares) + 127) // 255).astype(np.uint8)


def _on_a_ground(levels: Levels) -> Levels:
    """The values with those of what lies behind transparent pixels: it is as light as can be."""
    if levels.samples == "float":
        return levels
    return replace(levels, highest=max(levels.highest, levels.full[1]))
