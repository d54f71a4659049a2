"""Reads the header of a `.npy` file with numpy, within size limits, accepting only plain types.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import warnings
from math import prod
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from vaecli.system.size_limits import MAX_ARRAY_HEADER_BYTES

_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
_DAMAGE = (ValueError, TypeError, LookupError, SyntaxError, TokenError, RecursionError, MemoryError)
"""What numpy, and Python's parser in it, raise at a damaged header."""


class NotNumbersError(ValueError):
    """The array holds something else than plain numbers or texts, such as Python objects."""


class _Limited:
    """A file of which nothing longer than a header is read: numpy would read up to 4 GiB first."""

    def __init__(self, file: BinaryIO | Any) -> None:
        self._file = file

    def read(self, size: int = 0, /) -> bytes:
        if size > MAX_ARRAY_HEADER_BYTES:
            limit = MAX_ARRAY_HEADER_BYTES
            raise NotNumbersError(f"its header has {size:,} bytes, more than {limit:,}")
        data: bytes = self._file.read(size)
        return data


def read_header(file: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and type; the file is then at its numbers.

    Raises:
        NotNumbersError: it is no array of plain numbers or texts, or its header is damaged.
    """
    limited = _Limited(file)
    try:
        version = npy_format.read_magic(limited)
        if version not in _READERS:
            raise NotNumbersError(
                f"its header has version {version[0]}.{version[1]}, not 1.0 or 2.0"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            shape, fortran, dtype = _READERS[version](limited, MAX_ARRAY_HEADER_BYTES)
    except NotNumbersError:
        raise
    except _DAMAGE:
        raise NotNumbersError("it is not a .npy array, or its header is damaged") from None
    if dtype.hasobject:
        raise NotNumbersError("it holds Python objects, which are never loaded")
    if dtype.kind not in "biufcSU":
        raise NotNumbersError(f"its type {str(dtype)[:80]} is not a plain number type")
    if min(shape, default=0) < 0 or prod(shape) > 2**48:
        raise NotNumbersError(
            "its header gives an impossible size: negative, or larger than any array"
        )
    return shape, fortran, dtype
