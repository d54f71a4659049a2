"""Reads the binary version of CIFAR-10: records of one label byte and 3,072 pixel bytes.

The archive and what was unpacked from it are both read; the Python version of the set is pickled
and is not.  Source: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vaecli.data.dataset import Dataset, Images
from vaecli.data.named.class_names import class_names
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.callbacks import Report

NAME = "cifar10"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
Bytes = NDArray[np.uint8]
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
LIMIT = 512 * 1024**2  # bytes of the archive, and of what it unpacks to; CIFAR-10 needs 184 MB


def parse_archive(data: bytes, where: str) -> Dataset:
    """Read the bytes of the `.tar.gz`; `where` names it in errors.

    Nothing is unpacked to the disk, and names in the archive only say which batch it is.

    Returns:
        pixels (N, 3, 32, 32) and labels (N,), both uint8.

    Raises:
        DataError: it is damaged, or a batch is missing.
    """
    batches: dict[str, Bytes] = {}
    try:
        with (
            gzip.GzipFile(fileobj=io.BytesIO(data)) as stream,
            tarfile.open(fileobj=_Capped(stream), mode="r|") as archive,
        ):
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in (*TRAIN, *TEST):
                    file = archive.extractfile(member)
                    assert file is not None
                    batches[name] = _batch(file.read(), f"{where}: {name}")
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"CIFAR-10 archive: {where}: {error}") from None
    return assemble(batches, where)


def assemble(batches: Mapping[str, Bytes], where: str) -> Dataset:
    """Make the set of its six batches of records (n, 3073).

    Raises:
        DataError: one is missing.
    """
    if missing := [name for name in (*TRAIN, *TEST) if name not in batches]:
        raise DataError(f"CIFAR-10: {where}: {', '.join(missing)} not found")
    train, test = (np.concatenate([batches[name] for name in names]) for names in (TRAIN, TEST))
    return Dataset(NAME, _images(train), _images(test))


def find(data_dir: Path, report: Report) -> Dataset | None:
    """The set in `data_dir`, from the archive or its unpacked folder; None without a sound one.

    Args:
        data_dir: holds the archive or the folder, or is that folder.
        report: told of what is damaged.
    """
    for folder in (data_dir / FOLDER, *([data_dir] if data_dir.name == FOLDER else [])):
        try:
            batches = {name: _read(folder / name) for name in (*TRAIN, *TEST)}
            return assemble(batches, str(folder))
        except (FileNotFoundError, NotADirectoryError) as error:
            if folder.is_dir() and any(folder.glob("*.bin")):
                report(
                    f"CIFAR-10: {error.filename}: it is missing,"
                    " but other files of the set are there"
                )
        except DataError as error:
            report(error.message)
        except OSError as error:
            report(f"CIFAR-10: {error.filename or folder}: {error.strerror or error}")
    path = data_dir / ARCHIVE
    try:
        return parse_archive(files.read_capped(path, LIMIT), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DataError as error:
        report(error.message)
    except (OSError, ValueError) as error:
        report(f"CIFAR-10: {path}: {getattr(error, 'strerror', None) or error}")
    return None


class _Capped(io.RawIOBase, IO[bytes]):
    """A stream that ends with an error after `LIMIT` bytes: a gzip bomb stops there."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        super().__init__()
        self.stream, self.left = stream, LIMIT

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {LIMIT:,} bytes")
        return data


def _read(path: Path) -> Bytes:
    try:
        data = files.read_capped(path, LIMIT)
    except ValueError as error:
        raise DataError(f"CIFAR-10: {path}: {error}") from None
    return _batch(data, str(path))


def _batch(data: bytes, where: str) -> Bytes:
    if not data or len(data) % RECORD:
        raise DataError(f"CIFAR-10: {where}: {len(data):,} bytes are not a multiple of {RECORD:,}")
    records = np.frombuffer(bytearray(data), np.uint8).reshape(-1, RECORD)
    if int(records[:, 0].max()) >= CLASSES:
        raise DataError(f"CIFAR-10: {where}: a label is above {CLASSES - 1}")
    return records


def _images(records: Bytes) -> Images:
    pixels = np.ascontiguousarray(records[:, 1:]).reshape(-1, *SHAPE)
    return Images(pixels, records[:, 0].copy(), classes=class_names(NAME))
