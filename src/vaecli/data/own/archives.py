"""Archives of images, unpacked into the cache once: `.zip` and `.tar`, plain or compressed.

Nothing in an archive is trusted: its names, sizes and numbers are checked before anything is
written, and only images are.  Writing `index.json` is the commit: an archive that was unpacked in
part is unpacked again.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vaecli.data import formats
from vaecli.data.layout import HIDDEN
from vaecli.data.own import damage, listing, store
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.callbacks import Progress, Report
from vaecli.system.limits import (
    MAX_ARCHIVE_DIRECTORY_BYTES,
    MAX_ARCHIVE_IMAGES,
    MAX_ARCHIVE_RATIO,
    MAX_IMAGE_BYTES,
    MIN_ARCHIVE_BYTES,
)
from vaecli.system.strict_json import canonical_json, parse_json

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
FORMAT = "vaecli-unpacked-1"
INDEX = "index.json"
_INDEX_LIMIT = 2**16
_PIECE = 2**20
_XZ_MEMORY = 2**28
# a name that Windows takes for a device, a stream of another file, or not at all
_NOT_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)


@dataclass(frozen=True)
class Unpacked:
    """An archive whose images lie in a folder.

    Attributes:
        folder: the images, under their paths in the archive.
        others: files that were left out, by suffix.
    """

    folder: Path
    others: Counter[str]


@dataclass(frozen=True)
class _Member:
    """A file in an archive, of which nothing was believed yet."""

    name: str
    size: int
    refusal: str | None
    open: Any


def suffix_of(path: Path) -> str:
    """The suffix that says which kind of archive a file is, in lower case; empty for none."""
    name = path.name.lower()
    return max((end for end in SUFFIXES if name.endswith(end)), key=len, default="")


def unpack(path: Path, data_dir: Path, report: Report, progress: Progress | None) -> Unpacked:
    """The images of an archive in a folder of the cache, from before where it is the same archive.

    Args:
        path: the archive.
        data_dir: where its images are kept.
        report: told of a wait.
        progress: told (what, bytes done, bytes in all).

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
    slot = data_dir / "vaecli" / "unpacked" / f"{stem}-{store.key_of(os.fspath(path))[:12]}"
    folder = slot / f"images-{key[:16]}"
    if (others := _unpacked(slot, folder, key)) is not None:
        return Unpacked(folder, others)
    files.make_folder(slot)
    with store.turn(slot, report):
        others = _unpacked(slot, folder, key)  # by the process we waited for
        if others is None:
            for old in slot.glob("images-*"):
                files.remove_tree(old)
            others = _unpack(path, folder, status.st_size, progress)
            _commit(slot, folder, key, others)
    return Unpacked(folder, others)


def _unpacked(slot: Path, folder: Path, key: str) -> Counter[str] | None:
    """What was left out, if all images of the archive `key` are there; else None."""
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


def _unpack(path: Path, folder: Path, size: int, progress: Progress | None) -> Counter[str]:
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
            _members(path, raw, allowed) as members,
        ):
            for count, member in enumerate(members):
                if count >= MAX_ARCHIVE_IMAGES:
                    raise ValueError(f"it holds more than {MAX_ARCHIVE_IMAGES:,} files")
                parts = _parts(member.name)
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
                if progress is not None:
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


def _write(folder: Path, parts: tuple[str, ...], member: _Member) -> None:
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
        raise ValueError(f"{member.name}: another file in it has that name") from None


def _check_case(folder: Path, parts: tuple[str, ...], spelled: dict[str, str]) -> None:
    """ValueError where two folders that differ in case alone have become one."""
    for depth in range(1, len(parts)):
        name = "/".join(parts[:depth])
        earlier = spelled.setdefault(name.casefold(), name)
        if earlier != name and os.path.samefile(folder / earlier, folder / name):
            raise ValueError(f"{earlier} and {name} in it are one folder on this file system")


def _parts(name: str) -> tuple[str, ...]:
    """A path in an archive, part by part; none for the root.

    Raises:
        ValueError: it leads out of the archive, or cannot be a path here.
    """
    spelled = name.replace("\\", "/")
    parts = tuple(part for part in spelled.split("/") if part not in ("", "."))
    if spelled.startswith("/") or re.match("[A-Za-z]:", spelled):
        raise ValueError(f"{name}: the path in it is absolute")
    if ".." in parts:
        raise ValueError(f"{name}: the path in it leads out of the archive")
    if "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts):
        raise ValueError(f"{name[:80]}: the path in it cannot be one here")
    if os.name == "nt" and any(_NOT_ON_WINDOWS.search(part) for part in parts):
        raise ValueError(f"{name}: the path in it cannot be one on Windows")
    return parts


# ---------------------------------------------------------------------- formats


@contextmanager
def _members(path: Path, raw: BinaryIO, allowed: int) -> Iterator[Iterator[_Member]]:
    """The files in an archive, in order; each is to be read before the next."""
    if suffix_of(path) == ".zip":
        _check_directory(raw)
        with zipfile.ZipFile(raw) as zip_file:
            yield _zipped(zip_file)
    else:
        with tarfile.open(fileobj=_Forward(_plain(raw), allowed), mode="r:") as tar:  # type: ignore[call-overload]
            yield _taped(tar)


def _zipped(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if info.is_dir():
            _parts(info.filename)
            continue
        refusal = None
        if info.flag_bits & 1:
            refusal = "it is encrypted"
        elif (info.external_attr >> 16) & 0o170000 == 0o120000:
            refusal = "it is a link"
        yield _Member(info.filename, info.file_size, refusal, lambda info=info: archive.open(info))


def _check_directory(raw: BinaryIO) -> None:
    """ValueError where the list of files at the end of a zip file is larger than allowed."""
    size = raw.seek(0, os.SEEK_END)
    start = max(0, size - 2**16 - 22)
    raw.seek(start)
    tail = raw.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0:
        raise ValueError("it is no zip file, or it is cut off")
    (length,) = struct.unpack_from("<I", tail, place + 12)
    if length == 0xFFFFFFFF and (place := tail.rfind(b"PK\6\6")) >= 0:
        (length,) = struct.unpack_from("<Q", tail, place + 40)
    if length > MAX_ARCHIVE_DIRECTORY_BYTES:
        raise ValueError(
            f"its list of files takes {length:,} bytes, more than {MAX_ARCHIVE_DIRECTORY_BYTES:,}"
        )
    raw.seek(0)


def _taped(archive: tarfile.TarFile) -> Iterator[_Member]:
    stream: _Forward = archive.fileobj  # type: ignore[assignment]
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it keeps all it has seen
        if info.isdir():
            _parts(info.name)
            continue
        refusal = None
        if not info.isreg():
            refusal = "it is a link" if info.issym() or info.islnk() else "it is no regular file"
        yield _Member(info.name, info.size, refusal, lambda info=info: archive.extractfile(info))
    # a damaged header ends the listing like the end of the archive does
    if stream.last.strip(b"\0") or len(stream.last) < tarfile.BLOCKSIZE:
        raise ValueError("damaged or cut off: it has no end mark")
    while rest := stream.read(_PIECE):  # to the end, where compressed data is checked
        if rest.strip(b"\0"):
            raise ValueError("other data follows its end mark")


def _plain(raw: BinaryIO) -> Any:
    """The content of a file that may be compressed; its first bytes tell, not its name."""
    start = raw.read(2**16)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if start.startswith(b"\xfd7zXZ"):
        # how much memory it takes is written in its header
        lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(start, max_length=1)
        return lzma.LZMAFile(raw)
    return raw


class _Forward:
    """A stream that is read once from its start to its end, and not past a limit.

    tarfile steps back by one byte between members, which the last block read is kept for, and
    reads a header of any size as a whole, which is refused.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._place = 0
        self._back = 0
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > _PIECE:
            raise ValueError(f"damaged: a header in it has {size:,} bytes")
        data = self.last[len(self.last) - self._back :][:size]
        self._back -= len(data)
        if len(data) < size:
            fresh = self._stream.read(size - len(data))
            self._place += len(fresh)
            self.last = (self.last + fresh)[-tarfile.BLOCKSIZE :]
            data += fresh
        if self._place > self._limit:
            raise ValueError(f"it unpacks to more than {self._limit:,} bytes")
        return data

    def tell(self) -> int:
        return self._place - self._back

    def seek(self, place: int) -> int:
        back = self._place - place
        if back > len(self.last):
            raise ValueError("damaged: it leads back")
        self._back = max(back, 0)
        while self.tell() < place and self.read(min(_PIECE, place - self.tell())):
            pass
        return self.tell()

    def close(self) -> None:
        """Left to who opened the file."""
