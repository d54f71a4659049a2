"""The files in an archive, in order: `.zip` and `.tar`, plain or compressed.

Nothing in an archive is trusted: names, sizes and lengths are checked before they are used.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vaecli.system.size_limits import MAX_ARCHIVE_DIRECTORY_BYTES

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_PIECE = 2**20
_XZ_MEMORY = 2**28
# a name that Windows takes for a device, a stream of another file, or not at all
_NOT_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)


@dataclass(frozen=True)
class Member:
    """A file in an archive; nothing the archive says about it is checked yet.

    Attributes:
        name: its path.
        size: bytes it is said to have.
        refusal: why it must not be unpacked, or None.
        open: opens its content.
    """

    name: str
    size: int
    refusal: str | None
    open: Any


def suffix_of(path: Path) -> str:
    """The suffix of an archive in lower case; empty for other files."""
    name = path.name.lower()
    return max((end for end in SUFFIXES if name.endswith(end)), key=len, default="")


def path_parts(name: str) -> tuple[str, ...]:
    """A path in an archive, part by part; none for the root.

    Raises:
        ValueError: it leads out of the archive, or is no path on this system.
    """
    spelled = name.replace("\\", "/")
    parts = tuple(part for part in spelled.split("/") if part not in ("", "."))
    if spelled.startswith("/") or re.match("[A-Za-z]:", spelled):
        raise ValueError(f"{name}: its path is absolute")
    if ".." in parts:
        raise ValueError(f"{name}: its path leads out of the archive")
    if "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts):
        raise ValueError(f"{name[:80]}: its path is not valid on this system")
    if os.name == "nt" and any(_NOT_ON_WINDOWS.search(part) for part in parts):
        raise ValueError(f"{name}: its path is not valid on Windows")
    return parts


@contextmanager
def members(path: Path, raw: BinaryIO, allowed: int) -> Iterator[Iterator[Member]]:
    """The files in an archive, in order; each is to be read before the next."""
    if suffix_of(path) == ".zip":
        _check_directory(raw)
        with zipfile.ZipFile(raw) as zip_file:
            yield _zipped(zip_file)
    else:
        with tarfile.open(fileobj=_Forward(_plain(raw), allowed), mode="r:") as tar:  # type: ignore[call-overload]
            yield _taped(tar)


def _zipped(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if info.is_dir():
            path_parts(info.filename)
            continue
        refusal = None
        if info.flag_bits & 1:
            refusal = "it is encrypted"
        elif (info.external_attr >> 16) & 0o170000 == 0o120000:
            refusal = "it is a link"
        yield Member(info.filename, info.file_size, refusal, lambda info=info: archive.open(info))


def _check_directory(raw: BinaryIO) -> None:
    """ValueError if the list of files at the end of a zip file is larger than allowed."""
    size = raw.seek(0, os.SEEK_END)
    start = max(0, size - 2**16 - 22)
    raw.seek(start)
    tail = raw.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0:
        raise ValueError("it is not a zip file, or it is truncated")
    (length,) = struct.unpack_from("<I", tail, place + 12)
    if length == 0xFFFFFFFF and (place := tail.rfind(b"PK\6\6")) >= 0:
        (length,) = struct.unpack_from("<Q", tail, place + 40)
    if length > MAX_ARCHIVE_DIRECTORY_BYTES:
        raise ValueError(
            f"its list of files takes {length:,} bytes, more than {MAX_ARCHIVE_DIRECTORY_BYTES:,}"
        )
    raw.seek(0)


def _taped(archive: tarfile.TarFile) -> Iterator[Member]:
    stream: _Forward = archive.fileobj  # type: ignore[assignment]
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it keeps every member it has seen
        if info.isdir():
            path_parts(info.name)
            continue
        refusal = None
        if not info.isreg():
            refusal = "it is a link" if info.issym() or info.islnk() else "it is not a regular file"
        yield Member(info.name, info.size, refusal, lambda info=info: archive.extractfile(info))
    # a damaged header ends the listing like the end of the archive does
    if stream.last.strip(b"\0") or len(stream.last) < tarfile.BLOCKSIZE:
        raise ValueError("damaged or truncated: its end marker is missing")
    while rest := stream.read(_PIECE):  # to the end, where compressed data is checked
        if rest.strip(b"\0"):
            raise ValueError("other data follows its end marker")


def _plain(raw: BinaryIO) -> Any:
    """The decompressed content; the first bytes say whether it is compressed, not the name."""
    start = raw.read(2**16)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if start.startswith(b"\xfd7zXZ"):
        # its header says how much memory it takes
        lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(start, max_length=1)
        return lzma.LZMAFile(raw)
    return raw


class _Forward:
    """A stream that is read once from start to end, and not past a limit.

    tarfile steps back by one byte between members, so the last block is kept.  It also reads a
    header of any size at once, so large reads are refused.
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
            raise ValueError("damaged: an offset in it points backwards")
        self._back = max(back, 0)
        while self.tell() < place and self.read(min(_PIECE, place - self.tell())):
            pass
        return self.tell()

    def close(self) -> None:
        """Does nothing: whoever opened the file closes it."""
