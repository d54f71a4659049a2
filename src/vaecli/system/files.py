"""The only file that writes: atomic writes, folders, removal; and size-limited reads.

A reader never sees half a file: bytes go to a temporary file in the same folder, are synced,
and take the final name in one rename.  Every change of the disk is a call of `OperatingSystem`,
so that tests can make the N-th call fail.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import mmap
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vaecli.errors import UsageError

TEMPORARY_PREFIX = ".vaecli-tmp-"
PROBE_BYTES = 4096
HELD_OPEN_WAIT = 2.0
"""Seconds to wait on Windows for another program to close a file that is replaced or removed."""
# errors of file systems that cannot sync a folder, such as some network mounts
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}


class OperatingSystem:
    """The calls that change the disk."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    replace = staticmethod(os.replace)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)


system = OperatingSystem()


def require_new(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse outputs that exist, unless they may be replaced.

    Raises:
        UsageError: one exists, or is a folder.
    """
    for path in paths:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise UsageError(f"output {path}: it is {what}", "Name a file.")
        if not force and (path.exists() or path.is_symlink()):
            raise UsageError(f"output {path}: it exists", "Name another, or use --force.")


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, or leave an existing file unchanged.

    The umask decides the file's mode.  The file and its folder are synced to disk.

    Raises:
        OSError: the disk is full, the folder is not writable, and the like; the error names
            `path` and the number of bytes.
    """
    with atomic_stream(path) as write:
        write(data)


def save(path: Path, data: bytes) -> None:
    """Write a result: like `atomic_write`, but creates the folder if it is missing."""
    save_all([(path, data)])


def save_all(results: Iterable[tuple[Path, bytes]]) -> None:
    """Write results, each like `save`; their folders are synced once, at the end.

    Until then a power loss may bring back what a file held before, whole.
    """
    folders = set[Path]()
    for path, data in results:
        make_folder(path.parent)
        with atomic_stream(path, sync_name=False) as write:
            write(data)
        folders.add(path.parent)
    for folder in folders:
        sync_folder(folder)


@contextlib.contextmanager
def atomic_stream(
    path: Path, *, sync_name: bool = True
) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Like `atomic_write`, for data in pieces: yields a function that appends.

    The file takes its name at the end of the block; after an exception it never does.

    Args:
        path: the file.
        sync_name: whether its name is on the disk too at the end of the block.

    Raises:
        OSError: as in `atomic_write`.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name[:80]}")
    written = 0
    try:
        with contextlib.suppress(FileNotFoundError):
            system.unlink(temporary)
        try:
            with new_file(temporary, synced=True) as append:

                def write(data: bytes | memoryview) -> None:
                    nonlocal written
                    written += len(data)
                    append(data)

                yield write
            _retry_while_open(lambda: system.replace(temporary, path))
        except BaseException:
            with contextlib.suppress(OSError):
                system.unlink(temporary)
            raise
        if sync_name:
            sync_folder(path.parent)
    except OSError as error:
        why = f"{error.strerror} (writing {written:,} bytes)"
        raise type(error)(error.errno, why, str(path)) from error


@contextlib.contextmanager
def new_file(path: Path, *, synced: bool = False) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Create a file under its own name, not atomically; yields a function that appends to it.

    Args:
        path: the file.
        synced: whether its bytes are on the disk at the end of the block.

    Raises:
        FileExistsError: a file of that name exists.
        OSError: the file cannot be written or closed.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    descriptor = system.open(path, flags | _binary(), 0o666)

    def append(data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[system.write(descriptor, view) :]

    try:
        yield append
        if synced:
            system.fsync(descriptor)
    finally:
        system.close(descriptor)


def _binary() -> int:
    """The flag for binary mode; without it Windows writes `\\r\\n` for each `\\n`."""
    return getattr(os, "O_BINARY", 0)


def _retry_while_open(change: Callable[[], None]) -> None:
    """Replace or remove a file; on Windows, wait until other programs have closed it."""
    start = time.monotonic()
    while True:
        try:
            return change()
        except PermissionError as error:
            if os.name != "nt":
                raise
            if time.monotonic() - start > HELD_OPEN_WAIT:
                error.strerror = (
                    f"{error.strerror}; another program may have the file open"
                    " (a spreadsheet, a virus scanner, OneDrive)"
                )
                raise
            time.sleep(0.05)


def sync_folder(folder: Path) -> None:
    """Make new, renamed and removed names in `folder` survive a power loss, where possible."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = system.open(folder, os.O_RDONLY)
    try:
        system.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise type(error)(error.errno, error.strerror, str(folder)) from error
    finally:
        system.close(descriptor)


def make_folder(path: Path) -> None:
    """Create `path` and its parents, synced to disk; an existing folder is fine."""
    if not path.is_dir():
        make_folder(path.parent)
        if not claim_folder(path) and not path.is_dir():
            raise FileExistsError(errno.EEXIST, "it is a file, not a folder", str(path))


def claim_folder(path: Path) -> bool:
    """Create `path` and its parents; False if `path` already existed."""
    make_folder(path.parent)
    try:
        system.mkdir(path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def release_folder(path: Path) -> None:
    """Remove a folder if it is empty."""
    with contextlib.suppress(OSError):
        system.rmdir(path)


def make_plain_folder(path: Path) -> None:
    """Create `path` and its parents, not synced."""
    missing = list(itertools.takewhile(lambda folder: not folder.is_dir(), (path, *path.parents)))
    for folder in reversed(missing):
        system.mkdir(folder)


def remove_tree(path: Path) -> None:
    """Remove a folder of the cache and its contents; what cannot be removed is left there."""
    for where, folders, names in os.walk(path, topdown=False):
        for name in names:
            discard(Path(where, name))
        for name in folders:
            release_folder(Path(where, name))
    release_folder(path)


def remove(path: Path) -> None:
    """Remove a file; a missing file is fine."""
    with contextlib.suppress(FileNotFoundError):
        _retry_while_open(lambda: system.unlink(path))


def discard(path: Path) -> None:
    """Remove a file that is no longer needed; if that fails, it stays."""
    with contextlib.suppress(OSError):
        system.unlink(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from `folder`."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        discard(path)


def probe(folder: Path) -> None:
    """Check that `folder` is writable: write a small file and remove it.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / f"{TEMPORARY_PREFIX}probe"
    atomic_write(path, bytes(PROBE_BYTES))
    discard(path)


def free_space(folder: Path) -> int:
    """Bytes that can still be written into `folder`."""
    return shutil.disk_usage(folder).free


HAS_CHANGE_TIME = os.name != "nt"
"""Whether st_ctime is the time of the last change; on Windows it is the time of creation."""


def identity_of(path: Path, status: os.stat_result) -> str:
    """Text that differs once a file is replaced, even by one of equal size and modification time.

    Inode and change time, which no program can set.  On Windows, which has no change time, a hash
    of the content; empty if the file cannot be read.
    """
    if HAS_CHANGE_TIME:
        return f"{status.st_ino}-{status.st_ctime_ns}"
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(2**20):
                digest.update(block)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not a regular file but a FIFO, a device or a folder.
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer
    try:
        descriptor = os.open(path, os.O_RDONLY | _binary() | getattr(os, "O_NONBLOCK", 0))
    except PermissionError:  # the error of Windows for a folder
        if path.is_dir():
            raise ValueError("it is not a regular file") from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise ValueError("it is not a regular file")


def read_capped(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, or larger than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it has {size:,} bytes, more than the limit of {limit:,}")
        # no more than this if the file grows; files below /proc report a size of 0
        return file.read(size or limit)


def map_readonly(file: BinaryIO) -> tuple[mmap.mmap, Callable[[], None]]:
    """Map a file of at least one byte; also returns a function that frees the pages it has read."""
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def release() -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    return mapping, release


def sha256(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
