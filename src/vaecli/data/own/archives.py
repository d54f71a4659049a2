"""Unpacks archives of images into the cache, once.

Only images are written, each after its name and size were checked.  Writing `index.json` is the
commit: a partly unpacked archive is unpacked again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
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

FORMAT = "vaecli-unpacked-1"
INDEX = "index.json"
_INDEX_LIMIT = 2**16
_PIECE = 2**20


def unpack(path: Path, reading: Reading) -> tuple[Path, Counter[str]]:
    """The images of an archive in a folder of the cache; unpacked only if the archive is new.

    Args:
        path: the archive.
        reading: where its images are kept; told before waiting for another process, and of the
            bytes done and in all.

    Returns:
        The folder that holds the images under their paths in the archive, and the number of files
        left out, by suffix.

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
    if (others := _unpacked(slot, folder, key)) is not None:
        return folder, others
    files.make_folder(slot)
    with store.turn(slot, reading.report):
        others = _unpacked(slot, folder, key)  # by the process we waited for
        if others is None:
            for old in slot.glob("images-*"):
                files.remove_tree(old)
            others = _unpack(path, folder, status.st_size, reading.progress)
            _commit(slot, folder, key, others)
    return folder, others


def _unpacked(slot: Path, folder: Path, key: str) -> Counter[str] | None:
    """Counts of what was left out, if all images of the archive `key` are there; else None."""
    try:
        index = parse_json(files.read_capped(slot / INDEX, _INDEX_LIMIT))
        if (index["format"], index["key"]) != (FORMAT, key):
            return None
        # sizes: a power loss may leave empty files
        if [index["files"], index["bytes"]] != list(_size_of(folder)):
            return None
        return Counter(index["others"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _commit(slot: Path, folder: Path, key: str, others: Counter[str]) -> None:
    count, size = _size_of(folder)
    index = {"format": FORMAT, "key": key, "files": count, "bytes": size, "others": dict(others)}
    files.atomic_write(slot / INDEX, canonical_json(index).encode())


def _size_of(folder: Path) -> tuple[int, int]:
    """Files below `folder`, and their bytes."""
    sizes = [
        os.stat(os.path.join(where, name)).st_size
        for where, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)


def _unpack(path: Path, folder: Path, size: int, progress: Progress) -> Counter[str]:
    """Write the images of the archive into the new `folder`; returns what was left out."""
    others = Counter[str]()
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
    return others


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
