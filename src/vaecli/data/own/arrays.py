"""Reads the images and labels of array files: `.npy`, `.npz`, tables and idx; never objects."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecli.data import npy
from vaecli.data.named import idx
from vaecli.data.own import array_names, damage, tables
from vaecli.data.own.array_names import ArrayPart
from vaecli.data.own.array_pixels import RGBA, ArrayFile, Part, channels_last, image_shape
from vaecli.data.own.folder import Entry
from vaecli.data.splits_and_classes import Account
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.size_limits import MAX_ARCHIVE_MEMBERS, MAX_ARRAY_IMAGES

SUFFIXES = (".npy", ".npz", *tables.SUFFIXES)
_HINT = (
    "Save images of shape (N,H,W), (N,H,W,C) or (N,C,H,W) with numpy.save, C being 1 or 3; or of"
    " shape (N,H,W,4), with alpha."
)


def open_arrays(path: Path, memory: int) -> ArrayFile:
    """Read an array file.

    Args:
        path: a file for which `is_arrays` is true.
        memory: largest size in bytes of an array; a `.npy` is mapped and may be larger.

    Raises:
        DataError: it is damaged, holds objects, or no array has the shape of images.
    """
    notes: list[str] = []
    left_out: dict[str, int] = {}
    try:
        with damage.explained(path, _HINT):
            parts = {part.name: part for part in _open(path, memory, notes, left_out)}
            _check(list(parts.values()))
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
    """Whether it is an array file, by its suffix; an idx file is told by its first bytes."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) or (path.is_file() and idx.is_idx(path))


def stem_of(path: Path) -> str:
    """The name of an array or Parquet file without its suffixes."""
    return re.sub(r"(\.(npy|npz|csv|tsv|amat|gz|parquet))+$", "", path.name, flags=re.IGNORECASE)


def _open(path: Path, memory: int, notes: list[str], left_out: dict[str, int]) -> list[Part]:
    name = path.name.lower()
    if name.endswith(".npy"):
        return _npy(path, notes)
    if name.endswith(".npz"):
        return _npz(path, memory, notes, left_out)
    if name.endswith(tables.SUFFIXES):
        table = tables.read_table(path, memory)
        notes += table.notes
        return [Part(stem_of(path), table.pixels, table.labels)]
    return _idx(path, memory, notes)


def _idx(path: Path, memory: int, notes: list[str]) -> list[Part]:
    pixels = idx.read_idx(path, memory)
    if pixels.ndim != 3:
        raise ValueError("it holds labels: give the file of the images, which is read with it")
    labels = idx.labels_beside(path, len(pixels))
    if labels is None:
        notes.append("there is no label file beside it")
    names = None if labels is None else [str(label) for label in labels.tolist()]
    return [Part(stem_of(path), pixels, names)]


def _npy(path: Path, notes: list[str]) -> list[Part]:
    with files.open_regular(path) as file:
        shape, fortran, dtype = npy.read_header(file)
        start, size = file.tell(), math.prod(shape) * dtype.itemsize
        file_size = os.fstat(file.fileno()).st_size
        if file_size != start + size:
            raise ValueError(f"damaged: it has {file_size:,} bytes, not {start + size:,}")
        mapping, unmap = files.map_readonly(file)
    array = np.frombuffer(mapping, np.uint8, size, start).view(dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    images = _as_images(path.stem, array, notes, alone=True)
    return [Part(path.stem, images, None, None, unmap)]


def _as_images(name: str, array: NDArray[Any], notes: list[str], *, alone: bool) -> NDArray[Any]:
    """The array with a shape of images; rows of numbers become square images."""
    shape = array_names.shape_of_images(array.shape, alone=alone)
    if shape != array.shape:
        notes.append(
            f"each row of {name}, {array.shape[1]:,} values, is an image of {shape[1]}x{shape[2]}"
        )
    if channels_last(shape) and shape[3] == RGBA:
        notes.append(f"the fourth channel of {name} is alpha")
    return array.reshape(shape)


@dataclass(frozen=True)
class _Member:
    """The header of an array in a .npz: its file there, shape, order and type."""

    file: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def _npz(path: Path, memory: int, notes: list[str], left_out: dict[str, int]) -> list[Part]:
    """The images and labels of a .npz; of its other arrays only the headers are read."""
    with files.open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
        if len(archive.infolist()) > MAX_ARCHIVE_MEMBERS:
            raise ValueError(f"it holds more than {MAX_ARCHIVE_MEMBERS:,} files")
        members: dict[str, _Member] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            try:
                if name == info.filename:
                    raise npy.NotNumbersError("it is not an array")
                with archive.open(info) as file:
                    members[name] = _Member(info.filename, *npy.read_header(file))
            except npy.NotNumbersError as error:
                if array_names.is_image_name(name):
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
            parts.append(Part(part.images, array, labels, part.split))
        return parts


def _read(archive: zipfile.ZipFile, member: _Member, memory: int) -> NDArray[Any]:
    with archive.open(member.file) as file:
        npy.read_header(file)
        size = math.prod(member.shape) * member.dtype.itemsize
        if size > memory:
            raise ValueError(
                f"{member.file} has {size:,} bytes, more than the {memory:,} allowed in"
                " memory: save it as .npy"
            )
        data = file.read(size)
        if len(data) != size or file.read(1):
            raise ValueError(f"damaged: {member.file} does not have {size:,} bytes")
    order: Literal["F", "C"] = "F" if member.fortran else "C"
    return np.frombuffer(data, member.dtype).reshape(member.shape, order=order)


def _chosen(members: Mapping[str, _Member]) -> list[ArrayPart]:
    """Choose the arrays of images and their labels by their names.

    Raises:
        ValueError: there is none.
    """
    numbers = {
        name: member.shape for name, member in members.items() if member.dtype.kind in "buif"
    }
    images = {
        name
        for name, shape in numbers.items()
        if len(shape) in (3, 4) or (len(shape) == 2 and array_names.is_image_name(name))
    }
    if chosen := array_names.understand(members, images):
        return chosen
    known = ", ".join(list(members)[:10]) or "nothing"
    raise ValueError(f"it holds {known}: no array is named images, x, x_train or the like")


def _classes(name: str, labels: NDArray[Any], notes: list[str]) -> list[str] | None:
    """The name of each image's class: from numbers, texts, or rows with a single 1 (one-hot).

    Args:
        name: of the array.
        labels: (N,), (N, 1), or (N, K) one-hot.
        notes: gets one more if labels cannot be used.
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


def _check(parts: list[Part]) -> None:
    """ValueError unless all are numbers, of one image shape, with a label for each image if any."""
    if (count := sum(len(part.array) for part in parts)) > MAX_ARRAY_IMAGES:
        raise ValueError(f"it holds {count:,} images, more than {MAX_ARRAY_IMAGES:,}")
    shapes = {image_shape(part.array) for part in parts}
    if any(not math.prod(shape) for shape in shapes):
        raise ValueError("its images have no pixels")
    if len(shapes) > 1:
        raise ValueError(f"its arrays have images of different shapes: {sorted(shapes)}")
    for part in parts:
        if part.array.dtype.kind not in "buif":
            raise ValueError(
                f"{part.name} has the type {part.array.dtype}, not an integer or float type"
            )
        if part.labels is not None and len(part.labels) != len(part.array):
            raise ValueError(
                f"{part.name} has {len(part.array):,} images and {len(part.labels):,} labels"
            )
