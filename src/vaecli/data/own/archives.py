"""Unpacks archives of images into the cache, once.

Only images are written, each after its name and size were checked.  Writing `index.json` is the
commit: a partly unpacked archive is unpacked again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vaecli.data import formats
from vaecli.data.own import damage, listing, store
from vaecli.data.own.archive_members import Member, members, path_parts
from vaecli.data.reading import Reading
from vaecli.data.splits_and_classes import HIDDEN
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.callbacks import Progress
from vaecli.system.size_limits import (
    MAX_ARCHIVE_IMAGES,
    MAX_ARCHIVE_RATIO,
    MAX_IMAGE_BYTES,
    MIN_ARCHIVE_BYTES,
)
from vaecli.system.strict_json import canonical_json, parse_json

FORMAT = "vaecli-unpacked-2"
INDEX = "index.json"
LABELS = "labels.json"
CLASS_SUFFIX = ".cls"
_INDEX_LIMIT = 2**16
_LABELS_LIMIT = 2**30
_CLASS_LIMIT = 256
_PIECE = 2**20


@dataclass(frozen=True)
class Unpacked:
    """What was in an archive.

    Attributes:
        folder: holds the images under their paths in the archive.
        others: the number of files left out, by suffix.
        labels: the class of each sample by its key, from the `.cls` files of a WebDataset.
    """

    folder: Path
    others: Counter[str] = field(default_factory=Counter)
    labels: dict[str, str] = field(default_factory=dict)


def sample_key(path: str) -> str:
    """What the files of one sample of a WebDataset have in common: `set/000` of `set/000.jpg`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.split('.')[0]}"


def unpack(path: Path, reading: Reading) -> Unpacked:
    """The images of an archive in a folder of the cache; unpacked only if the archive is new.

    Args:
        path: the archive.
        reading: where its images are kept; told before waiting for another process, and of the
            bytes done and in all.

    Raises:
        DataError: it is damaged, encrypted or hostile, or cannot be read.
        OSError: the cache cannot be written.
    """
    try:
        with files.open_regular(path) as file:
            status = os.fstat(file.fileno())
            identity = [status.st_size, status.st_mtime_ns, files.identity_of(path, status)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"--data {path}: {reason}", "Check the path and its permissions.") from None
    key = store.key_of(identity, sorted(formats.suffixes()))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name)[:40]
    slot = reading.folder / "vaecli" / "unpacked" / f"{stem}-{store.key_of(os.fspath(path))[:12]}"
    folder = slot / f"images-{key[:16]}"
    if (found := _unpacked(slot, folder, key)) is not None:
        return found
    files.make_folder(slot)
    with store.turn(slot, reading.report):
        found = _unpacked(slot, folder, key)  # by the process we waited for
        if found is None:
            for old in slot.glob("images-*"):
                files.remove_tree(old)
            found = _unpack(path, folder, status.st_size, reading.progress)
            _commit(slot, key, found)
    return found


def _unpacked(slot: Path, folder: Path, key: str) -> Unpacked | None:
    """What was unpacked, if all images of the archive `key` are there; else None."""
    try:
        index = parse_json(files.read_capped(slot / INDEX, _INDEX_LIMIT))
        if (index["format"], index["key"]) != (FORMAT, key):
            return None
        # sizes: a power loss may leave empty files
        if [index["files"], index["bytes"]] != list(_size_of(folder)):
            return None
        labels = b"{}"
        if index["labels"] is not None:
            labels = files.read_capped(slot / LABELS, _LABELS_LIMIT)
            if files.sha256(labels) != index["labels"]:
                return None
        return Unpacked(folder, Counter(index["others"]), parse_json(labels))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _commit(slot: Path, key: str, found: Unpacked) -> None:
    count, size = _size_of(found.folder)
    labels = canonical_json(found.labels).encode() if found.labels else None
    if labels is not None:
        files.atomic_write(slot / LABELS, labels)
    index = {
        "format": FORMAT,
        "key": key,
        "files": count,
        "bytes": size,
        "others": dict(found.others),
        "labels": None if labels is None else files.sha256(labels),
    }
    files.atomic_write(slot / INDEX, canonical_json(index).encode())


def _size_of(folder: Path) -> tuple[int, int]:
    """Files below `folder`, and their bytes."""
    sizes = [
        os.stat(os.path.join(where, name)).st_size
        for where, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)


def _unpack(path: Path, folder: Path, size: int, progress: Progress) -> Unpacked:
    """Write the images of the archive into the new `folder`."""
    result = Unpacked(folder)
    others = result.others
    allowed = max(MIN_ARCHIVE_BYTES, MAX_ARCHIVE_RATIO * size)
    suffixes = formats.suffixes()
    spelled: dict[str, str] = {}
    written = 0
    try:
        files.make_folder(folder)
        with (
            damage.explained(path, "Unpack it yourself, or fetch it again."),
            files.open_regular(path) as raw,
            members(path, raw, allowed) as found,
        ):
            for count, member in enumerate(found):
                if count >= MAX_ARCHIVE_IMAGES:
                    raise ValueError(f"it holds more than {MAX_ARCHIVE_IMAGES:,} files")
                parts = path_parts(member.name)
                if parts and _names_class(parts, member):
                    result.labels[sample_key("/".join(parts))] = _class(member)
                    continue
                if not parts or not _is_wanted(parts, suffixes, others):
                    continue
                if member.refusal:
                    raise ValueError(f"{member.name}: {member.refusal}")
                if member.size > MAX_IMAGE_BYTES:
                    raise ValueError(
                        f"{member.name} has {member.size:,} bytes, more than {MAX_IMAGE_BYTES:,}"
                    )
                written += member.size
                if written > allowed:
                    raise ValueError(
                        f"it unpacks to more than {allowed:,} bytes,"
                        f" {MAX_ARCHIVE_RATIO} times its size"
                    )
                _write(folder, parts, member)
                _check_case(folder, parts, spelled)
                progress(f"unpacking {path.name}", raw.tell(), size)
    except BaseException:
        files.remove_tree(folder)
        raise
    return result


def _names_class(parts: tuple[str, ...], member: Member) -> bool:
    """Whether a file says the class of a sample, as in a WebDataset."""
    short = member.size <= _CLASS_LIMIT and member.refusal is None
    return short and parts[-1].endswith(CLASS_SUFFIX)


def _class(member: Member) -> str:
    with member.open() as source:
        return str(source.read(_CLASS_LIMIT).decode("utf-8", "replace").strip())


def _is_wanted(parts: tuple[str, ...], suffixes: frozenset[str], others: Counter[str]) -> bool:
    """Whether a file is an image by its name; others are counted, as in a folder."""
    suffix = os.path.splitext(parts[-1])[1].lower()
    if listing.MAC_METADATA in parts or any(part.startswith(".") for part in parts[:-1]):
        return False
    if parts[-1].startswith("."):
        others[HIDDEN] += suffix in suffixes
    elif suffix in suffixes:
        return True
    else:
        others[suffix] += 1
    return False


def _write(folder: Path, parts: tuple[str, ...], member: Member) -> None:
    target = folder.joinpath(*parts)
    try:
        files.make_plain_folder(target.parent)
        with member.open() as source, files.new_file(target) as write:
            left = member.size
            while piece := source.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    break
                write(piece)
            if left:
                raise ValueError(f"damaged: {member.name} does not have {member.size:,} bytes")
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{member.name}: another file in the archive has that name") from None


def _check_case(folder: Path, parts: tuple[str, ...], spelled: dict[str, str]) -> None:
    """ValueError where two folders that differ in case alone have become one."""
    for depth in range(1, len(parts)):
        name = "/".join(parts[:depth])
        earlier = spelled.setdefault(name.casefold(), name)
        if earlier != name and os.path.samefile(folder / earlier, folder / name):
            raise ValueError(f"{earlier} and {name} in it are the same folder on this file system")
