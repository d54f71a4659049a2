"""The header of a `.npy` file, read by our own rules.

numpy's own reader parses the header as Python, of any depth; this one takes only what
`numpy.save` writes for an array of numbers or texts.
Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import re
import struct
from math import prod
from typing import Any, BinaryIO

import numpy as np

from vaecli.system.limits import MAX_ARRAY_HEADER_BYTES

MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I"}
_HEADER = re.compile(
    r"\{'descr': *'(?P<dtype>[^']{1,16})', *'fortran_order': *(?P<order>True|False),"
    r" *'shape': *\((?P<shape>(?:\d{1,15}L?, *){0,32}(?:\d{1,15}L?)?)\), *\} *\n?"
)


class NotNumbersError(ValueError):
    """The array holds something else than plain numbers or texts, such as Python objects."""


def read_header(file: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and type; the file is then at its numbers.

    Raises:
        NotNumbersError: it is an array of something else than plain numbers or texts.
        ValueError: it is no array, or damaged.
    """
    start = file.read(8)
    if len(start) < 8 or start[:6] != MAGIC:
        raise ValueError("it is no .npy array")
    layout = _LENGTHS.get(start[6:])
    if layout is None:
        raise ValueError(f"its header has version {start[6]}.{start[7]}, not 1.0 or 2.0")
    field = file.read(struct.calcsize(layout))
    if len(field) < struct.calcsize(layout):
        raise ValueError("damaged: it ends inside its header")
    (length,) = struct.unpack(layout, field)
    if length > MAX_ARRAY_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, more than {MAX_ARRAY_HEADER_BYTES:,}")
    match = _HEADER.fullmatch(file.read(length).decode("latin-1"))
    if match is None:
        reason = "its header is damaged, or is not that of an array of plain numbers"
        raise NotNumbersError(reason)
    shape = tuple(map(int, re.findall(r"\d+", match["shape"])))
    if prod(shape) > 2**48:
        raise ValueError(f"its header asks for {prod(shape):,} numbers")
    return shape, match["order"] == "True", _dtype(match["dtype"])


def _dtype(text: str) -> np.dtype[Any]:
    if text.endswith("O"):
        raise NotNumbersError("it holds Python objects, which are never loaded")
    if not re.fullmatch(r"[<>|=][biufcSU]\d{1,6}", text):
        raise NotNumbersError(f"its type {text!r} is not one of plain numbers")
    try:
        return np.dtype(text)
    except TypeError:
        raise ValueError(f"its type {text!r} is not one of plain numbers") from None
