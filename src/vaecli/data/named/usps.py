"""USPS: 16x16 digits from envelopes, as the lines of text that LIBSVM publishes.

A line is `label 1:value 2:value ...` with labels 1 to 10 for 0 to 9 and values in [-1, 1].
Source: Hull 1994; https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps.
"""

from __future__ import annotations

import bz2
import io
from collections.abc import Mapping

import numpy as np

from vaecli.data.dataset import Dataset, Images
from vaecli.errors import DataError

NAME = "usps"
FILES = ("usps.bz2", "usps.t.bz2")
LIMIT = 256 * 1024**2  # bytes of a file, and of what it unpacks to; the larger needs 26 MB
SIDE = 16
_PIXELS = SIDE * SIDE


def parse(data: bytes, where: str) -> Images:
    """The pictures of one file: pixels (N, 1, 16, 16) and labels (N,), both uint8.

    Raises:
        DataError: it is damaged, or its lines are not such.
    """
    try:
        with bz2.BZ2File(io.BytesIO(data)) as stream:
            text = stream.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise ValueError(f"it unpacks to more than {LIMIT:,} bytes")
        lines = text.decode("ascii").splitlines()
        if not lines:
            raise ValueError("it is empty")
        rows = [_row(line) for line in lines]
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"USPS: {where}: {error}") from None
    values = np.stack([row for _, row in rows])
    pixels = np.rint((values + 1) * 127.5).astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
    return Images(pixels, np.array([label for label, _ in rows], np.uint8))


def assemble(name: str, parts: Mapping[str, Images], where: str) -> Dataset:
    """The set of both files."""
    train, test = (parts[file] for file in FILES)
    return Dataset(name, train, test)


def _row(line: str) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """The digit and the values of a line; a value that is not named is 0, as LIBSVM has it.

    Raises:
        ValueError: it is no such line.
    """
    first, *named = line.split()
    label, row = int(first), np.zeros(_PIXELS)
    for pair in named:
        place, value = pair.split(":")
        if not 1 <= int(place) <= _PIXELS:
            raise ValueError(f"there is no pixel {place[:20]}")
        row[int(place) - 1] = float(value)
    if not 1 <= label <= 10:
        raise ValueError(f"a label is {label}, not 1 to 10")
    if not (np.abs(row) <= 1).all():  # not for NaN either
        raise ValueError("a value is not in [-1, 1]")
    return label - 1, row
