"""Reads idx files, the format of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaecli.data.dataset import Dataset, Images
from vaecli.data.named.class_names import class_names
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.callbacks import Report

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
LIMIT = 256 * 1024**2  # bytes of a file and of what it unpacks to; MNIST needs 47 MB
IMAGE = (28, 28)
Bytes = NDArray[np.uint8]
_MAGIC = {b"\0\0\x08\x01": 1, b"\0\0\x08\x03": 3}


def read_idx(path: Path, limit: int = LIMIT) -> Bytes:
    """Read an idx1 or idx3 file of unsigned bytes; gzip is recognised by content, not by name.

    Args:
        path: the file.
        limit: largest size in bytes, compressed and unpacked.

    Returns:
        uint8 array of the shape in the header, (N,) or (N, H, W).

    Raises:
        DataError: it is no idx file, or its size is not what its header says.
        OSError: it cannot be read.
    """
    try:
        data = files.read_capped(path, limit)
    except ValueError as error:
        raise DataError(f"idx file: {path}: {error}") from None
    return parse_idx(data, str(path), limit)


def is_idx(path: Path) -> bool:
    """Whether a file begins like an idx file of bytes, gzipped or not."""
    with contextlib.suppress(OSError, ValueError, EOFError, zlib.error):
        with files.open_regular(path) as raw:
            start = raw.read(4)
            if start.startswith(b"\x1f\x8b"):
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) as stream:
                    start = stream.read(4)
        return start in _MAGIC
    return False


def labels_beside(path: Path, count: int) -> Bytes | None:
    """The labels of the `count` images in `path`, from the file of labels beside it.

    Raises:
        DataError: it is damaged, or has not one label for each image.
    """
    name = path.name.removesuffix(".gz")
    if "images" not in name:
        return None
    for other in spellings(name.replace("images", "labels").replace("idx3", "idx1")):
        with contextlib.suppress(FileNotFoundError):
            labels = read_idx(path.with_name(other))
            if labels.ndim != 1 or len(labels) != count:
                raise DataError(
                    f"idx files: {path.with_name(other)}: {len(labels):,} labels"
                    f" for the {count:,} images of {path.name}"
                )
            return labels
    return None


def parse_idx(data: bytes, where: str, limit: int = LIMIT) -> Bytes:
    """Read the bytes of an idx file, plain or gzipped; `where` names them in errors.

    Raises:
        DataError: as for `read_idx`.
    """
    if not data.startswith(b"\x1f\x8b"):
        return _parse(io.BytesIO(data), where, limit)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return _parse(stream, where, limit)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"idx file: {where}: damaged gzip data ({error})") from None


def _parse(stream: io.BufferedIOBase, where: str, limit: int) -> Bytes:
    rank = _MAGIC.get(stream.read(4))
    if rank is None:
        raise DataError(f"idx file: {where}: it does not start like an idx file of bytes")
    header = stream.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"idx file: {where}: it ends inside its header")
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * rank, 4)]
    size = math.prod(shape)
    if not 0 < size <= limit:
        raise DataError(f"idx file: {where}: its header declares {size:,} bytes")
    # one byte more than allowed, never more: a gzip bomb stops here
    body = bytearray(stream.read(size + 1))
    if len(body) != size:
        actual = f"{len(body):,} follow" if len(body) < size else "more follow"
        raise DataError(f"idx file: {where}: its header declares {size:,} bytes, {actual}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def assemble(name: str, arrays: Mapping[str, Bytes], where: str) -> Dataset:
    """Make a data set of the arrays of the four `FILES`.

    Returns:
        pixels (N, 1, 28, 28) and labels (N,), both uint8.

    Raises:
        DataError: images of another size, or labels that are not one per image.
    """
    images, labels, test_images, test_labels = (arrays[file] for file in FILES)
    names = class_names(name)
    train = _pair(images, labels, names, where)
    return Dataset(name, train, _pair(test_images, test_labels, names, where))


def _pair(images: Bytes, labels: Bytes, names: Mapping[int, str], where: str) -> Images:
    if tuple(images.shape[1:]) != IMAGE or labels.ndim != 1:
        raise DataError(f"idx files: {where}: they hold no 28 x 28 images with labels")
    if len(images) != len(labels):
        raise DataError(f"idx files: {where}: {len(images)} images but {len(labels)} labels")
    return Images(images[:, None], labels, classes=names)


def read_folder(
    name: str, folder: Path, report: Report, names: Sequence[str] = FILES
) -> Dataset | None:
    """Read the four files of a set, each under any of its `spellings`, whichever is sound.

    Args:
        name: name of the set.
        folder: where the files lie.
        report: told of every damaged file, and of what is missing when the rest is there.
        names: of the files, in the order of `FILES`.

    Returns:
        The set, or None when it is not there whole.
    """
    arrays, missing = {}, []
    for file, given in zip(FILES, names, strict=True):
        try:
            array = _read_any(folder / given, report)
        except FileNotFoundError:
            missing.append(given)
            continue
        if array is not None:
            arrays[file] = array
    if len(missing) < len(FILES):
        for file in missing:
            report(
                f"idx file: {folder / file}: it is missing, but other files of the set are there"
            )
    if len(arrays) < len(FILES):
        return None
    try:
        return assemble(name, arrays, str(folder))
    except DataError as error:
        report(error.message)
        return None


def spellings(name: str) -> Iterator[str]:
    """What the file `name` of a set may be called, the plain ones first: they read faster."""
    dashed, dotted = name.replace(".idx", "-idx"), name.replace("-idx", ".idx")  # Kaggle's
    yield from (dashed, dotted, f"{dashed}.gz", f"{dotted}.gz")


def _read_any(plain: Path, report: Report) -> Bytes | None:
    """Read the first of the files that may be `plain`; None when what is there is bad.

    Raises:
        FileNotFoundError: none is there.
    """
    damaged = False
    for path in map(plain.with_name, spellings(plain.name)):
        try:
            return read_idx(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except DataError as error:
            report(error.message)
        except OSError as error:
            report(f"idx file: {path}: {error.strerror or error}")
        damaged = True
    if not damaged:
        raise FileNotFoundError(plain)
    return None
