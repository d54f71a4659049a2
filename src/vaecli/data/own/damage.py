"""Turns whatever Python's libraries raise on damaged archives, arrays and tables into one error."""

from __future__ import annotations

import csv
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vaecli.errors import DataError

# zipfile raises RuntimeError where a password is needed
_DAMAGE = (
    *(ValueError, EOFError, KeyError, RuntimeError, OverflowError),
    *(csv.Error, struct.error, lzma.LZMAError, zlib.error),
    *(gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError),
)


@contextmanager
def explained(path: Path, hint: str) -> Iterator[None]:
    """Turn what is raised while a damaged file is read into a DataError.

    Args:
        path: the file.
        hint: what to do about it.
    """
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).strip("'\" ").rstrip(".") or type(error).__name__
        raise DataError(f"--data {path}: {reason[:300]}", hint) from None
