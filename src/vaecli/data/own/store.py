"""Prepared images on disk: one raw file of uint8, and the index that makes it valid.

The raw file is written first, under a name of its own; renaming `index.json` into place is the
commit.  Sets that fit are read into memory, larger ones are mapped.
"""

# A store of its own, beside named/cache.py and training/checkpoint.py: here the data may exceed
# memory and is mapped, a named set is one file without an index, and a checkpoint keeps two
# generations to fall back on.  What the three share (atomic writes, capped reads, SHA-256,
# canonical JSON, leftovers) is in system/.

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecli.data.dataset import Dataset, Images
from vaecli.data.levels import Levels
from vaecli.data.mapped import Mapped
from vaecli.data.splits_and_classes import UNKNOWN
from vaecli.errors import DataError, EnvironmentFailure
from vaecli.system import files, locks
from vaecli.system.callbacks import Report
from vaecli.system.strict_json import canonical_json, parse_json

FORMAT = "vaecli-images-1"
INDEX = "index.json"
LOCK_WAIT = 3600.0  # seconds to wait for another process that prepares the same images
_INDEX_LIMIT = 2 * 1024**3


@dataclass(frozen=True)
class Contents:
    """The index of prepared images: everything that is stored besides pixels.

    Attributes:
        key: what it was made from: files, their sizes and times, settings.
        shape: (N, C, H, W): test images, training images, validation images.
        n_test: number of test images, which come first.
        n_validation: number of validation images, which come last.
        paths: of each image.
        labels: of each image, or None.
        classes: label of each class, by name.
        shared: how many test and validation images are identical to a training image.
        bad: path and reason of each unreadable file.
        total: number of images, unreadable ones included.
        levels: the range of values in each sample type, and what counts as white.
        cut: share of a picture that cropping dropped, the median.
        animated: number of animations; only their first frame is used.
    """

    key: str
    shape: tuple[int, int, int, int]
    n_test: int
    n_validation: int
    paths: tuple[str, ...]
    labels: tuple[int, ...] | None
    classes: Mapping[str, int]
    bad: tuple[tuple[str, str], ...]
    total: int
    shared: tuple[int, int] = (0, 0)
    levels: tuple[Levels, ...] = ()
    cut: float = 0.0
    animated: int = 0


@contextlib.contextmanager
def write_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError into an EnvironmentFailure about `what`; `folder` if it names no file."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"{what}: {error.filename or folder}: {error.strerror or error}",
            "Make room, or choose a folder that can be written with --data-dir.",
        ) from None


@contextlib.contextmanager
def turn(folder: Path, report: Report) -> Iterator[None]:
    """Hold the lock of `folder`, after waiting for the process that holds it."""
    what = "the folder's preparation"
    with locks.hold_when_free(folder / "lock", what=what, patience=LOCK_WAIT, report=report):
        files.remove_leftovers(folder)
        yield


def raw_path(folder: Path, key: str) -> Path:
    """The file of the pixels made from `key`."""
    return folder / f"images-{key[:16]}.raw"


def commit(folder: Path, contents: Contents, memory: int) -> None:
    """Make the raw file of `contents` valid, and remove older ones.

    Raises:
        OSError: it cannot be read back, or the index cannot be written.
    """
    content = {
        **vars(contents),
        "levels": [vars(levels) for levels in contents.levels],
        "fingerprint": _open(folder, contents, memory, name="").fingerprint(),
    }
    text = canonical_json(content)
    index = {"format": FORMAT, "sha256": files.sha256(text.encode()), "content": content}
    files.atomic_write(folder / INDEX, canonical_json(index).encode())
    for old in folder.glob("images-*.raw"):
        if old != raw_path(folder, contents.key):
            with contextlib.suppress(OSError):
                files.remove(old)


def read(
    folder: Path, key: str, name: str, memory: int, checked: bool = False
) -> tuple[Contents, Dataset] | None:
    """The images stored for `key`; None if there are none, or older ones.

    Args:
        folder: where it is stored.
        key: what it was made from.
        name: of the set.
        memory: bytes of images held in memory.
        checked: whether another process has just compared the pixels with their SHA-256.

    Raises:
        DataError: it is damaged.
        OSError: it cannot be read.
    """
    where = folder / INDEX
    try:
        index = parse_json(files.read_capped(where, _INDEX_LIMIT))
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise ValueError("it has another format")
        content = index["content"]
        if files.sha256(canonical_json(content).encode()) != index["sha256"]:
            raise ValueError("it does not have the recorded SHA-256")
        if content["key"] != key:
            return None
        contents = _contents(content)
        where = raw_path(folder, key)
        dataset = _open(folder, contents, memory, name)
        if checked:
            return contents, dataset.known_as(content["fingerprint"])
        if dataset.fingerprint() != content["fingerprint"]:
            raise ValueError("its content does not have the recorded SHA-256")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"prepared images: {where}: damaged: {error}") from None
    return contents, dataset


def _contents(content: dict[str, Any]) -> Contents:
    count, channels, height, width = content["shape"]
    labels = content["labels"]
    return Contents(
        key=content["key"],
        shape=(count, channels, height, width),
        n_test=content["n_test"],
        n_validation=content["n_validation"],
        paths=tuple(content["paths"]),
        labels=None if labels is None else tuple(labels),
        classes=content["classes"],
        shared=tuple(content["shared"]),
        bad=tuple((path, why) for path, why in content["bad"]),
        total=content["total"],
        levels=tuple(
            Levels(**{**levels, "range": tuple(levels["range"])}) for levels in content["levels"]
        ),
        cut=content["cut"],
        animated=content["animated"],
    )


def _open(folder: Path, contents: Contents, memory: int, name: str) -> Dataset:
    """The stored set, in memory or mapped."""
    path = raw_path(folder, contents.key)
    pixels: NDArray[np.uint8] | Mapped
    if not contents.shape[0]:
        pixels = np.empty(contents.shape, np.uint8)
    elif math.prod(contents.shape) <= memory:
        pixels = _into_memory(path, contents.shape)
    else:
        pixels = _mapped(path, contents.shape)
    labels = None if contents.labels is None else np.array(contents.labels, np.int64)
    names = {label: name for name, label in contents.classes.items()}
    whole = Images(pixels, labels, contents.paths, names)
    n_test, end = contents.n_test, len(whole) - contents.n_validation
    splits = map(_without_unknown, (whole[n_test:end], whole[:n_test], whole[end:]))
    train, test, validation = splits
    return Dataset(name, train, test, validation if contents.n_validation else None)


def _without_unknown(images: Images) -> Images:
    """The same images, without labels if no image has a class."""
    if images.labels is not None and bool((images.labels == UNKNOWN).all()):
        return replace(images, labels=None)
    return images


def _into_memory(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    with files.open_regular(path) as file:
        _check_size(file.fileno(), math.prod(shape))
        pixels = np.fromfile(file, np.uint8, math.prod(shape))
    return pixels.reshape(shape)  # ValueError if it was just cut off


def _mapped(path: Path, shape: tuple[int, ...]) -> Mapped:
    """Pixels in a read-only mapping."""
    with files.open_regular(path) as file:
        _check_size(file.fileno(), math.prod(shape))
        mapping, unmap = files.map_readonly(file)
    return Mapped.of(np.frombuffer(mapping, np.uint8).reshape(shape), unmap)


def _check_size(descriptor: int, size: int) -> None:
    actual = os.fstat(descriptor).st_size
    if actual != size:
        raise ValueError(f"it has {actual:,} bytes instead of {size:,}")


def key_of(*parts: object) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
