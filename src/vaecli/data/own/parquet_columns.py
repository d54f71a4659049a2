"""Which columns of a Parquet file are the images and their classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaecli.data.own.tables import LABEL_NAMES
from vaecli.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_HINT = "Name the column of the images with --image-column."


@dataclass(frozen=True)
class Columns:
    """What the columns of a set are.

    Attributes:
        image: the name of the column of images.
        label: that of the classes, or None.
        classes: the name of each class, where the labels are numbers of them.
        notes: how that was understood.
    """

    image: str
    label: str | None
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def columns_of(
    schema: pa.Schema, where: str, image: str | None, label: str | None, *, local: bool
) -> Columns:
    """Which columns are the images and their labels.

    Raises:
        DataError: there are none, or several that could be.
    """
    features = _features(schema)
    names = schema.names
    for option, name in (("--image-column", image), ("--label-column", label)):
        if name is not None and name not in names:
            raise DataError(
                f"--data {where}: {option} {name}: there is no such column",
                f"There are {', '.join(names[:20])}.",
            )
    if image is None:
        typed = [name for name in names if features.get(name, {}).get("_type") == "Image"]
        typed = typed or [name for name in names if _holds_images(schema.field(name).type)]
        if len(typed) != 1:
            what = (
                f"several columns hold images: {', '.join(typed)}"
                if typed
                else (f"no column holds images: {', '.join(names[:20])}")
            )
            raise DataError(f"--data {where}: {what}", _HINT)
        image = typed[0]
    kind = schema.field(image).type
    if not (_holds_images(kind) or is_text(kind)):
        raise DataError(
            f"--data {where}: column {image} holds {kind}, neither files nor their paths", _HINT
        )
    if is_text(kind) and not local:
        raise DataError(
            f"--data {where}: column {image} names files that are not in its Parquet files", _HINT
        )
    notes = [f"images are column {image}"]
    if label is None:
        likely = [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
        likely = likely or [name for name in names if name.lower() in LABEL_NAMES]
        likely = [name for name in likely if name != image and _is_label(schema.field(name).type)]
        if len(likely) > 1:
            notes.append(
                f"no classes: they may be column {' or '.join(likely)}; --label-column chooses"
            )
        label = likely[0] if len(likely) == 1 else None
    elif not _is_label(schema.field(label).type):
        raise DataError(
            f"--data {where}: column {label} holds {schema.field(label).type}, neither whole"
            " numbers nor text",
            "Name another with --label-column.",
        )
    if label is not None:
        notes[0] += f", classes column {label}"
    classes = features.get(label or "", {}).get("names")
    known = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return Columns(image, label, tuple(classes) if known and classes else (), tuple(notes))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What the library `datasets` says of the columns, which the Hub's files carry."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        features = about["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    found = features.items() if isinstance(features, dict) else ()
    return {str(name): feature for name, feature in found if isinstance(feature, dict)}


def _holds_images(kind: pa.DataType) -> bool:
    """Whether it is bytes, or bytes with a path as the Hub's image columns are."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text, which may be paths of files."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_label(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def require_type(schema: pa.Schema, first: pa.Schema, column: str, path: Path, where: str) -> None:
    """DataError where a column has another type than in the first file."""
    theirs = schema.field(column).type if column in schema.names else "missing"
    if theirs != first.field(column).type:
        raise DataError(
            f"--data {where}: {path.name}: column {column} is {theirs}, and"
            f" {first.field(column).type} in the first file",
            "Give files of one set.",
        )
