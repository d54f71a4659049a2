"""Images in a table of numbers, one per row: Kaggle's `.csv`, `.tsv`, `.amat`."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vaecli.system import files
from vaecli.system.size_limits import MAX_TABLE_ROW_BYTES

SUFFIXES = (".csv", ".tsv", ".amat", ".csv.gz", ".tsv.gz", ".amat.gz")
LABEL_NAMES = ("label", "labels", "class", "target", "y", "digit", "character", "category")
_ROWS = 1000
"""Rows converted together."""
_PIXEL_NAME = re.compile(r"(?P<stem>[a-z_ ]*?)(?P<a>\d+)(?:[x_](?P<b>\d+))?")


@dataclass(frozen=True)
class Table:
    """The images of a table.

    Attributes:
        pixels: (N, H, W), of the smallest type that holds all values.
        labels: what the label column says of each image, or None.
        notes: how the table was understood.
    """

    pixels: NDArray[Any]
    labels: list[str] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Columns:
    """What the columns of a table are.

    Attributes:
        pixels: places of the pixels, row by row of an image.
        size: height and width.
        label: place of the label column, or None.
        notes: how that was understood.
    """

    pixels: tuple[int, ...]
    size: tuple[int, int]
    label: int | None
    notes: tuple[str, ...] = ()


def read_table(path: Path, memory: int) -> Table:
    """Read a table of pixels, plain or gzipped.

    Args:
        path: comma, semicolon, tab or white space between values; a line of names on top or not.
        memory: bytes the pixels may take.

    Raises:
        ValueError: it is damaged, or no table of images.
        OSError: it cannot be read.
    """
    with files.open_regular(path) as raw:
        lines = _lines(raw)
        head = list(itertools.islice(lines, _ROWS))
        if not head:
            raise ValueError("it is empty")
        delimiter = _delimiter(head[0][1])
        names = _cells(head[0][1], delimiter)
        if _is_header(names, [_cells(line, delimiter) for _, line in head[1:20]]):
            head = head[1:]
        else:
            names = [""] * len(names)
        if not head:
            raise ValueError("it has a header line, but no rows")
        _check_widths(head, len(names), delimiter)
        columns = _by_name(names) or _by_number(names, head, delimiter)
        return _read(itertools.chain(head, lines), columns, len(names), delimiter, memory)


def _read(
    lines: Iterator[tuple[int, str]],
    columns: _Columns,
    width: int,
    delimiter: str | None,
    memory: int,
) -> Table:
    parts: list[NDArray[Any]] = []
    labels: list[str] = []
    size = 0
    while block := list(itertools.islice(lines, _ROWS)):
        _check_widths(block, width, delimiter)
        part = _smallest(_numbers(block, columns.pixels, delimiter))
        size += part.nbytes
        if size > memory:
            raise ValueError(
                f"its pixels take more than the {memory:,} bytes allowed in memory: save it as .npy"
            )
        parts.append(part)
        if columns.label is not None:
            labels += _texts(block, columns.label, delimiter)
    pixels = np.concatenate(parts).reshape(-1, *columns.size)
    return Table(pixels, None if columns.label is None else labels, columns.notes)


# ------------------------------------------------------------------------- text


def _lines(raw: BinaryIO) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers; of bounded length."""
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
    for number in itertools.count(1):
        data = stream.readline(MAX_TABLE_ROW_BYTES + 1)
        if len(data) > MAX_TABLE_ROW_BYTES:
            raise ValueError(f"line {number:,} has more than {MAX_TABLE_ROW_BYTES:,} bytes")
        if not data:
            return
        if b"\0" in data:
            raise ValueError(f"line {number:,} holds null bytes: it is not a text table")
        text = data.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        if text.strip():
            yield number, text


def _delimiter(line: str) -> str | None:
    """What stands between the values of a line; None for white space of any length."""
    counts = {mark: line.count(mark) for mark in ",;\t"}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else None


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _cell(line: str, column: int, delimiter: str | None) -> str:
    if '"' in line:
        return _cells(line, delimiter)[column]
    return line.split(delimiter)[column].strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a first line holds names: texts where the rows below hold numbers.

    Pandas also writes the numbers of the columns, or the first row with repeated values numbered
    (`0`, `0.1`, `0.2`), which over whole numbers is no row of pixels.
    """
    numbers = [cell for cell in first if _is_number(cell)]
    counted = [str(i) for i in range(len(numbers) + 1)]
    if len(numbers) > 3 and numbers in (counted[:-1], counted[1:]):
        return True
    if len(numbers) < len(first) / 2:
        return True
    repeated = sum(bool(re.fullmatch(r"\d+\.[1-9]\d*", cell)) for cell in first)
    whole = all(float(cell).is_integer() for row in others for cell in row if _is_number(cell))
    return repeated > 1 and whole


def _check_widths(block: list[tuple[int, str]], width: int, delimiter: str | None) -> None:
    for number, line in block:
        count = len(line.split()) if delimiter is None else line.count(delimiter) + 1
        if count != width and '"' in line:
            count = len(_cells(line, delimiter))
        if count != width:
            raise ValueError(f"line {number:,} has {count:,} values, the first one {width:,}")


def _numbers(
    block: list[tuple[int, str]], columns: Sequence[int], delimiter: str | None
) -> NDArray[np.float32]:
    """The values of some columns, (rows, columns); float32 holds integers up to 2^24 exactly."""
    try:
        found = np.loadtxt(
            [line for _, line in block],
            dtype=np.float32,
            delimiter=delimiter,
            usecols=columns,
            comments=None,
            quotechar='"',
            ndmin=2,
        )
    except ValueError:
        found = np.empty(0, np.float32)
    if found.size and np.isfinite(found).all():
        return found
    for number, line in block:  # find the place
        cells = _cells(line, delimiter)
        for column in columns:
            if not _is_number(cells[column]) or not math.isfinite(float(cells[column])):
                raise ValueError(
                    f"line {number:,}, column {column + 1:,}: {cells[column][:40]!r}"
                    " is not a number"
                )
    raise ValueError(f"lines {block[0][0]:,} to {block[-1][0]:,} cannot be read as numbers")


def _texts(block: list[tuple[int, str]], column: int, delimiter: str | None) -> list[str]:
    """The labels of some rows; whole numbers without their decimals."""
    cells = [_cell(line, column, delimiter) for _, line in block]
    return [
        str(int(float(cell))) if _is_number(cell) and float(cell).is_integer() else cell
        for cell in cells
    ]


def _smallest(values: NDArray[np.float32]) -> NDArray[Any]:
    """The same values as uint8 or uint16, where they are all whole numbers in its range."""
    for kind in (np.uint8, np.uint16):
        if values.min() >= 0 and values.max() <= np.iinfo(kind).max:
            small = values.astype(kind)
            if np.array_equal(small, values):
                return small
    return values


# ---------------------------------------------------------------------- columns


def _by_name(names: Sequence[str]) -> _Columns | None:
    """`label`, `pixel0`, `pixel1`, ... or `1x1`, `1x2`, ..., in any order; None for other names."""
    lower = [name.lower() for name in names]
    labels = [place for place, name in enumerate(lower) if name in LABEL_NAMES]
    found = {
        place: match for place, name in enumerate(lower) if (match := _PIXEL_NAME.fullmatch(name))
    }
    others = [place for place in range(len(names)) if place not in found and place not in labels]
    if len(found) < 4 or len({match["stem"] for match in found.values()}) > 1 or len(labels) > 1:
        return None
    numbers = {place: (int(match["a"]), int(match["b"] or 0)) for place, match in found.items()}
    if len({*numbers.values()}) < len(numbers) or len(others) > len(found):
        return None
    ordered = tuple(sorted(numbers, key=lambda place: numbers[place]))
    rows, columns = (len({pair[axis] for pair in numbers.values()}) for axis in (0, 1))
    size = (rows, columns) if columns > 1 else _square(len(ordered))
    if size is None or size[0] * size[1] != len(ordered):
        return None
    return _Columns(ordered, size, labels[0] if labels else None, _said(names, labels, others))


def _said(names: Sequence[str], labels: Sequence[int], others: Sequence[int]) -> tuple[str, ...]:
    notes = [f"the column {names[place]} is the label" for place in labels]
    if others:
        left = ", ".join(repr(names[place]) for place in others[:5])
        notes.append(f"neither pixels nor labels, and left out: {len(others):,} columns ({left})")
    return tuple(notes)


def _by_number(
    names: Sequence[str], rows: list[tuple[int, str]], delimiter: str | None
) -> _Columns:
    """All columns are pixels if they make a square; all but the label if these do.

    A label that no name tells is the first or the last column.

    Raises:
        ValueError: they make no picture, or nothing tells which is the label.
    """
    named = any(names)
    labels = [place for place, name in enumerate(names) if name.lower() in LABEL_NAMES]
    others = [place for place, name in enumerate(names) if named and not name]  # pandas' index
    places = [place for place in range(len(names)) if place not in (*labels, *others)]
    if len(labels) < 2 and (size := _square(len(places))):
        label = labels[0] if labels else None
        return _Columns(tuple(places), size, label, _said(names, labels, others))
    size = _square(len(places) - 1)
    if labels or size is None:
        raise ValueError(
            f"its rows have {len(places):,} values: neither a square picture such as 28 x 28 = 784,"
            " nor one and a label"
        )
    first = _label_is_first(rows, places, delimiter)
    label = places.pop(0 if first else -1)
    notes = (f"the {'first' if first else 'last'} column is the label",)
    return _Columns(tuple(places), size, label, notes + _said(names, labels, others))


def _label_is_first(
    rows: list[tuple[int, str]], places: Sequence[int], delimiter: str | None
) -> bool:
    """Which of the first and the last column holds labels, by their values.

    A label is a text; or small beside the pixels between the two, or too large for one of them;
    else its values are those from 0 or 1 on, each of them; else they are fewer and smaller.  A
    column of zeros is a corner of the pictures.

    Raises:
        ValueError: nothing tells.
    """
    ends = [
        [_cell(line, place, delimiter) for _, line in rows] for place in (places[0], places[-1])
    ]
    texts = [not all(map(_is_number, column)) for column in ends]
    if texts[0] != texts[1]:
        return texts[0]
    if not any(texts):
        top = float(_numbers(rows, places[1:-1], delimiter).max())
        found = [np.unique(np.array(column, dtype=np.float64)) for column in ends]
        small = [bool(v[-1] < min(100, top / 2) or v[-1] > 1.5 * top) for v in found]
        whole = [bool((v == np.rint(v)).all() and v[-1] > 0) for v in found]
        dense = [bool(v[0] in (0, 1) and v[-1] - v[0] == len(v) - 1) for v in found]
        likely = [a and b for a, b in zip(small, whole, strict=True)]
        certain = [a and b for a, b in zip(likely, dense, strict=True)]
        for clue in (likely, certain):
            if clue[0] != clue[1]:
                return clue[0]
        if all(likely):
            fewer, smaller = len(found[0]) < len(found[1]), found[0][-1] < found[1][-1]
            if fewer == smaller and len(found[0]) != len(found[1]):
                return bool(fewer)
    raise ValueError(
        "its label may be the first or the last column: add a header line,"
        " such as label,pixel0,pixel1"
    )


def _square(count: int) -> tuple[int, int] | None:
    side = math.isqrt(max(count, 0))
    return (side, side) if side > 1 and side * side == count else None
