"""Tables of pixels: which columns are what, whatever names and order they come in."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Vaecli
from vaecli.data.dataset import join
from vaecli.data.origin import Options
from vaecli.data.own import prepare, tables
from vaecli.data.reading import Reading

RNG = np.random.default_rng(0)
COUNT, SIDE = 40, 8
PIXELS = RNG.integers(0, 256, (COUNT, SIDE * SIDE))
LABELS = RNG.integers(0, 10, COUNT)
NAMES = [f"pixel{place}" for place in range(SIDE * SIDE)]
GRID = [f"{row}x{column}" for row in range(1, SIDE + 1) for column in range(1, SIDE + 1)]
FRAMED = PIXELS * (np.arange(SIDE * SIDE) // SIDE % (SIDE - 1) > 0)
"""As of digits: every corner is black."""
BITS = (PIXELS > 127).astype(int)


def write(
    path: Path, rows: NDArray[Any], names: Sequence[str] = (), mark: str = ",", form: str = "%d"
) -> Path:
    with path.open("w") as file:
        if names:
            file.write(mark.join(names) + "\n")
        np.savetxt(file, rows, form, mark)
    return path


def joined(*columns: NDArray[Any]) -> NDArray[Any]:
    return np.column_stack(columns)


ORDER = RNG.permutation(SIDE * SIDE + 1)
COUNTED = [str(place) for place in range(SIDE * SIDE + 1)]
MANGLED = ["3", *("0" if place == 0 else f"0.{place}" for place in range(SIDE * SIDE))]
"""As pandas numbers the values of a first row that it takes for names."""
LABELLED: dict[str, tuple[NDArray[Any], NDArray[Any], Sequence[str]]] = {
    "Kaggle's digits": (joined(LABELS, PIXELS), PIXELS, ["label", *NAMES]),
    "in any order": (
        joined(LABELS, PIXELS)[:, ORDER],
        PIXELS,
        [["Label", *NAMES][place] for place in ORDER],
    ),
    "by row and column": (joined(LABELS, PIXELS), PIXELS, ["label", *GRID]),
    "with a number of the row": (
        joined(np.arange(COUNT), LABELS, PIXELS),
        PIXELS,
        ["id", "label", *NAMES],
    ),
    "pandas' index": (
        joined(np.arange(COUNT), LABELS, PIXELS),
        PIXELS,
        ["", *COUNTED],
    ),
    "pandas' numbers": (joined(LABELS, PIXELS), PIXELS, COUNTED),
    "pandas' mangled row": (joined(LABELS, PIXELS), PIXELS, MANGLED),
    "other names": (joined(PIXELS, LABELS), PIXELS, [*(f"f-{n}" for n in NAMES), "class"]),
    "first": (joined(LABELS, PIXELS), PIXELS, ()),
    "last": (joined(PIXELS, LABELS), PIXELS, ()),
    "first of digits": (joined(LABELS, FRAMED), FRAMED, ()),
    "last of digits": (joined(FRAMED, LABELS), FRAMED, ()),
    "first of bits": (joined(LABELS, BITS), BITS, ()),
    "last of bits": (joined(BITS, LABELS), BITS, ()),
}


@pytest.mark.parametrize("row", LABELLED)
def test_the_label_column_is_found(tmp_path: Path, row: str) -> None:
    rows, pixels, names = LABELLED[row]
    table = tables.read_table(write(tmp_path / "x.csv", rows, names), 2**20)
    np.testing.assert_array_equal(table.pixels, pixels.reshape(COUNT, SIDE, SIDE))
    assert table.pixels.dtype == np.uint8
    assert table.labels == [str(label) for label in LABELS]
    assert "is the label" in table.notes[0]


@pytest.mark.parametrize(
    "mark", [",", ";", "\t", "   "], ids=["comma", "semicolon", "tab", "space"]
)
@pytest.mark.parametrize("names", [(), NAMES], ids=["plain", "named"])
@pytest.mark.parametrize("packed", [False, True], ids=["text", "gzip"])
def test_rows_without_a_label(
    tmp_path: Path, mark: str, names: Sequence[str], packed: bool
) -> None:
    path = write(tmp_path / "x.csv", BITS, names, mark)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    table = tables.read_table(path, 2**20)
    np.testing.assert_array_equal(table.pixels, BITS.reshape(COUNT, SIDE, SIDE))
    assert (table.labels, table.notes) == (None, ())


def test_floats_texts_and_pictures_that_are_not_square(tmp_path: Path) -> None:
    path = write(tmp_path / "x.amat", joined(PIXELS / 255, LABELS), (), "   ", "%.9e")
    table = tables.read_table(path, 2**20)
    np.testing.assert_allclose(table.pixels.reshape(COUNT, -1), PIXELS / 255, atol=1e-7)
    assert table.labels == [str(label) for label in LABELS]
    rows = "\r\n".join(
        f'"a {label}, b",' + ",".join(map(str, row))
        for label, row in zip(LABELS, PIXELS, strict=True)
    )
    path.write_bytes(b"\xef\xbb\xbf" + rows.encode() + b"\r\n\r\n")
    table = tables.read_table(path, 2**20)
    np.testing.assert_array_equal(table.pixels.reshape(COUNT, -1), PIXELS)
    assert table.labels == [f"a {label}, b" for label in LABELS]
    wide = [f"{row}x{column}" for row in range(4) for column in range(16)]
    assert tables.read_table(write(path, 300 * PIXELS, wide), 2**20).pixels.shape == (COUNT, 4, 16)
    table = tables.read_table(write(path, 200 * PIXELS), 2**20)
    np.testing.assert_array_equal(table.pixels.reshape(COUNT, -1), 200 * PIXELS)
    assert table.pixels.dtype == np.uint16


def test_parts_of_a_long_table_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ROWS", 7)
    rows = joined(LABELS, np.where(np.arange(COUNT)[:, None] < 20, BITS, PIXELS * 99))
    table = tables.read_table(write(tmp_path / "x.csv", rows, ["label", *NAMES]), 2**20)
    np.testing.assert_array_equal(table.pixels.reshape(COUNT, -1), rows[:, 1:])
    assert table.labels == [str(label) for label in LABELS]


REFUSED = {
    "": "it is empty",
    "label,pixel0\n": "it has a header line, but no rows",
    "path,label\na.png,1\nb.png,2\n": "its rows have 1 values: neither a square picture",
    "1,2,3\n4,5\n": "line 2 has 2 values, the first one 3",
    "1,2,3,4\n1,x,3,4\n": "line 2, column 2: 'x' is not a number",
    "1,2,3,4\n1,2,,4\n": "line 2, column 3: '' is not a number",
    "1,2,3,nan\n": "line 1, column 4: 'nan' is not a number",
    "0,255,0,255,0\n0,255,0,255,0\n": "its label may be the first or the last column",
    "a\0b\n": "line 1 holds null bytes",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_table_of_images_says_why(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=REFUSED[text]):
        tables.read_table(path, 2**20)


def test_lines_and_tables_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.csv", PIXELS)
    with pytest.raises(ValueError, match="more than the 100 bytes allowed in memory"):
        tables.read_table(path, 100)
    monkeypatch.setattr(tables, "MAX_TABLE_ROW_BYTES", 100)
    with pytest.raises(ValueError, match="line 1 has more than 100 bytes"):
        tables.read_table(path, 2**20)
    path.write_bytes(gzip.compress(b"1," * 10_000_000))
    with pytest.raises(ValueError, match="line 1 has more than 100 bytes"):
        tables.read_table(path, 2**20)


def test_a_table_is_a_set(vaecli: Vaecli, tmp_path: Path) -> None:
    write(tmp_path / "digits.csv", joined(LABELS, PIXELS), ["label", *NAMES])
    found = prepare.load(tmp_path / "digits.csv", Options(), Reading(tmp_path / "cache"))
    whole = join([found.train, found.test])
    order = [int(path.removeprefix("digits[")[:-1]) for path in whole.paths or ()]
    np.testing.assert_array_equal(np.asarray(whole.pixels).reshape(COUNT, -1), PIXELS[order])
    assert whole.labels is not None
    assert [whole.class_name(int(label)) for label in whole.labels] == [
        str(LABELS[i]) for i in order
    ]
    (tmp_path / "notes.txt").write_text("hello")
    outcome = vaecli("train", "--data", "notes.txt")
    assert outcome.code == 2
    assert all(word in outcome.err for word in (".zip", ".tar.gz", ".csv", ".npz", "idx"))
