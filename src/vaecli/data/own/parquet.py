"""Images in the rows of Parquet files, as the Hugging Face Hub keeps its sets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaecli.data import splits_and_classes
from vaecli.data.own import archive_members
from vaecli.data.own.folder import Entry
from vaecli.data.own.parquet_columns import Columns, columns_of, is_text, require_type
from vaecli.data.splits_and_classes import Account, Place, Split
from vaecli.errors import DataError
from vaecli.system import extras, files
from vaecli.system.size_limits import MAX_ARRAY_IMAGES, MAX_IMAGE_BYTES, MAX_PARQUET_FOOTER_BYTES

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
Listing = tuple[tuple[str, int, int], ...]
"""Path, bytes and modification time in ns of each file of a set."""
_ROWS = 64
"""Rows read together."""
_SHARD = re.compile(r"[-_]?\d+(-of-\d+)?$")


@dataclass(frozen=True)
class ParquetSet:
    """The images of Parquet files; the path of an entry is `train.parquet[17]`, row 17.

    Attributes:
        where: what messages call it.
        files: by the names that entries have.
        columns: what the columns are.
        first_rows: the number of rows in the files before each.
        listed: the size and time of each file.
        entries: one for each row, in order.
        account: what became of the rest.
    """

    where: str
    files: Mapping[str, Path]
    columns: Columns
    first_rows: Mapping[str, int]
    listed: Listing
    entries: list[Entry]
    account: Account

    @contextmanager
    def images(self, temporary: Path) -> Iterator[Callable[[str], bytes]]:
        """The file in each row, by the path of its entry.

        Rows are wanted in the order of a shuffle, which Parquet does not give: they are copied to
        a temporary file first.

        Args:
            temporary: the file; removed at the end.

        Raises:
            DataError: a file is damaged; the function raises it for a row without an image.
        """
        places: list[tuple[int, int] | str] = []
        try:
            with files.new_file(temporary) as write:
                place = 0
                for content in self._contents():
                    if isinstance(content, str):
                        places.append(content)
                        continue
                    write(content)
                    places.append((place, place + len(content)))
                    place += len(content)
            with files.open_regular(temporary) as opened:
                mapping = files.map_readonly(opened)[0] if place else None

                def read(path: str) -> bytes:
                    name, _, row = path.removesuffix("]").rpartition("[")
                    found = places[self.first_rows[name] + int(row)]
                    if isinstance(found, str):
                        raise DataError(f"cannot read the image: {path}: {found}")
                    return b"" if mapping is None else mapping[slice(*found)]

                yield read
                if mapping is not None:
                    mapping.close()
        finally:
            files.discard(temporary)

    def _contents(self) -> Iterator[memoryview | bytes | str]:
        """The image of each row, or why there is none."""
        for name in self.first_rows:
            path = self.files[name]
            with _opened(path, self.where) as file:
                for batch in file.iter_batches(_ROWS, columns=[self.columns.image]):
                    yield from _images(batch.column(0), path.parent)


def open_parquet(
    where: str,
    found: Mapping[str, Path],
    image: str | None,
    label: str | None,
    *,
    splits: Mapping[str, str] | None = None,
    local: bool = True,
) -> ParquetSet:
    """Read what Parquet files say of their rows, and their labels.

    Args:
        where: what messages call them.
        found: the files, by the names that entries get.
        image: the column of images, or None to find it by its type.
        label: that of labels, or None.
        splits: the split that each file belongs to; None: as the names of the files say.
        local: whether a column may name files that lie beside.

    Raises:
        DataError: a file is damaged, or has no such columns.
        EnvironmentFailure: pyarrow is not installed.
    """
    extras.require("hub", where, ("pyarrow",))
    schema: Any = None
    entries: list[Entry] = []
    first_rows: dict[str, int] = {}
    listed = []
    sources: dict[Split, str] = {}
    left_out: dict[str, int] = {}
    places = _places(list(found) if splits is None else [splits[name] for name in found])
    for (name, path), place in zip(found.items(), places, strict=True):
        if place is None:
            left_out[f"file beside those of the splits: {name}"] = 1
            continue
        if (split := place.split) is not None:
            sources[split] = f"{sources[split]}, {name}" if split in sources else name
        with _opened(path, where) as file:
            if schema is None:
                schema = file.schema_arrow
                columns = columns_of(schema, where, image, label, local=local)
            _check_rows(file, len(entries), path, where)
            used = [columns.image, *filter(None, [columns.label])]
            for column in used:
                require_type(file.schema_arrow, schema, column, path, where)
            labels = _labels(file, columns)
        first_rows[name] = len(entries)
        status = path.stat()
        listed.append((name, status.st_size, status.st_mtime_ns))
        identity = files.identity_of(path, status)
        entries += [
            Entry(
                f"{name}[{row}]",
                status.st_size,
                status.st_mtime_ns,
                text,
                split,
                identity=identity,
            )
            for row, text in enumerate(labels)
        ]
    if not entries:
        raise DataError(f"--data {where}: it has no rows", "Check the files.")
    account = Account(sources, left_out, columns.notes)
    return ParquetSet(where, found, columns, first_rows, tuple(listed), entries, account)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; whatever pyarrow raises while it is used becomes a DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_footer(path)
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise DataError(f"--data {where}: {path.name}: {reason}", "Fetch the file again.") from None


def _check_footer(path: Path) -> None:
    """ValueError for what is no Parquet file, or has a longer list of columns than allowed."""
    with files.open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if size < 12 or tail[4:] != b"PAR1":
        raise ValueError("it is not a Parquet file, or it is truncated")
    if (length := int.from_bytes(tail[:4], "little")) > min(size, MAX_PARQUET_FOOTER_BYTES):
        raise ValueError(f"damaged: its footer has {length:,} bytes")


def _check_rows(file: pq.ParquetFile, before: int, path: Path, where: str) -> None:
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows < 0 or rows + before > MAX_ARRAY_IMAGES:
        raise DataError(
            f"--data {where}: {path.name}: it has {rows:,} rows, more than {MAX_ARRAY_IMAGES:,}"
        )
    if rows > size:  # an image takes some bytes
        raise DataError(f"--data {where}: {path.name}: damaged: {rows:,} rows in {size:,} bytes")


def _labels(file: pq.ParquetFile, columns: Columns) -> Sequence[str | None]:
    """The name of the class of each row; None for no class, which the Hub writes as -1 too."""
    if columns.label is None:
        return [None] * file.metadata.num_rows
    values = file.read([columns.label]).column(0).to_pylist()
    if not columns.classes:
        return [None if value is None else str(value) for value in values]
    count = len(columns.classes)
    if any(value is not None and not -1 <= value < count for value in values):
        raise ValueError(f"column {columns.label} has labels outside its {count:,} classes")
    return [None if value in (None, -1) else columns.classes[value] for value in values]


def _images(column: pa.Array, folder: Path) -> Iterator[memoryview | bytes | str]:
    """The file of each row of a batch, or why there is none."""
    import pyarrow as pa

    values, paths = column, None
    if pa.types.is_struct(column.type):
        parts = {
            field.name: part for field, part in zip(column.type, column.flatten(), strict=True)
        }
        values, paths = parts["bytes"], parts.get("path")
    elif is_text(column.type):
        values, paths = None, column
    for row in range(len(column)):
        if values is not None and values[row].is_valid:
            data = memoryview(values[row].as_buffer())
            yield data if len(data) <= MAX_IMAGE_BYTES else f"it has {len(data):,} bytes"
        elif paths is not None and is_text(paths.type) and paths[row].is_valid:
            yield _beside(folder, paths[row].as_py())
        else:
            yield "the row has no image"


def _beside(folder: Path, name: str) -> bytes | str:
    """The file that a row names, which must lie below the folder of the Parquet file."""
    try:
        path = folder.joinpath(*archive_members.path_parts(name)).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{name}: it leads out of {folder}")
        return files.read_capped(path, MAX_IMAGE_BYTES)
    except OSError as error:
        return f"{name}: {(error.strerror or str(error)).lower()}"
    except ValueError as error:
        return str(error)


def _places(names: Sequence[str]) -> list[Place | None]:
    """The split that each file's name says, with the rules for folders of images.

    None for a file beside the splits, which is left out.

    >>> names = ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"]
    >>> [place.split for place in _places(names)]
    ['train', 'test']
    """
    paths = []
    for number, name in enumerate(names):
        *folders, last = name.removesuffix(SUFFIX).split("/")
        stem = _SHARD.sub("", last)
        paths.append("/".join([*folders, *filter(None, [stem]), str(number)]))
    places = splits_and_classes.understand(sorted(paths)).places
    return [places.get(path) for path in paths]
