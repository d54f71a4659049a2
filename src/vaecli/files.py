"""The only file that writes: atomic writes, capped reads, the lock of a run directory.

A reader never sees half a file: bytes go to a temporary file in the same folder, are synced,
and take the final name in one rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vaecli.errors import BusyError

TEMPORARY_PREFIX = ".vaecli-tmp-"


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, or leave what was there untouched.

    The file gets the mode the umask asks for, and it and its folder are synced to disk.

    Raises:
        OSError: the disk is full, the folder cannot be written, and the like.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name[:80]}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss, where the system can."""
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create `path` and its parents; an existing folder is fine."""
    path.mkdir(parents=True, exist_ok=True)


def claim_folder(path: Path) -> bool:
    """Create `path` exclusively; False when it was there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file; one that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        remove(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file (a FIFO, a device, a folder).
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise ValueError("it is no regular file")


def read_capped(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or larger than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"it has {size:,} bytes, more than the limit of {limit:,}")
        return file.read(limit)


def sha256(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the process dies.

    Raises:
        BusyError: another process holds it; the message names that process.
    """
    import filelock

    guard = filelock.FileLock(path)
    holder = path.with_name("holder")
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        who = "another process"
        with contextlib.suppress(OSError, ValueError):
            who = read_capped(holder, 200).decode("utf-8", "replace").strip() or who
        raise BusyError(
            f"{what} is in use by {who}", "Wait for it to end, or choose another output with -o."
        ) from None
    try:
        with contextlib.suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
        yield
    finally:
        remove(holder)
        guard.release()
