"""The only file that writes: atomic writes, capped reads, the lock of a run directory.

A reader never sees half a file: bytes go to a temporary file in the same folder, are synced,
and take the final name in one rename.  Every change of the disk is one of the calls of
`OperatingSystem`, so that what happens when the N-th of them fails can be tried out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import mmap
import os
import platform
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vaecli.errors import BusyError, EnvironmentFailure
from vaecli.system.callbacks import Report

TEMPORARY_PREFIX = ".vaecli-tmp-"
PROBE_BYTES = 4096
LOCK_FILES = ("lock", "holder")
HELD_OPEN_WAIT = 2.0
"""Seconds to wait on Windows for another program to close a file that is replaced or removed."""
# what a file system answers that cannot sync a folder, such as some network mounts
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}


class OperatingSystem:
    """The calls by which this program changes the disk."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    replace = staticmethod(os.replace)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)


system = OperatingSystem()


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, or leave what was there untouched.

    The file gets the mode the umask asks for, and it and its folder are synced to disk.

    Raises:
        OSError: the disk is full, the folder cannot be written, and the like; it names `path`
            and the bytes that were to be written.
    """
    with atomic_stream(path) as write:
        write(data)


def save(path: Path, data: bytes) -> None:
    """Write a result: as `atomic_write`, in a folder that is made where there is none."""
    make_folder(path.parent)
    atomic_write(path, data)


@contextlib.contextmanager
def atomic_stream(path: Path) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Like `atomic_write`, for what comes piece by piece: the block gets a function that appends.

    The rename happens at the end of the block, and not at all when an exception ends it.

    Raises:
        OSError: as `atomic_write`.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name[:80]}")
    written = 0
    try:
        with contextlib.suppress(FileNotFoundError):
            system.unlink(temporary)
        try:
            with _created(temporary, synced=True) as append:

                def write(data: bytes | memoryview) -> None:
                    nonlocal written
                    written += len(data)
                    append(data)

                yield write
            _unless_held_open(lambda: system.replace(temporary, path))
        except BaseException:
            with contextlib.suppress(OSError):
                system.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as error:
        why = f"{error.strerror} (writing {written:,} bytes)"
        raise type(error)(error.errno, why, str(path)) from error


def _create(path: Path, data: bytes) -> None:
    """Write a new file; an error of close counts too."""
    with _created(path) as append:
        append(data)


@contextlib.contextmanager
def _created(path: Path, *, synced: bool = False) -> Iterator[Callable[[bytes | memoryview], None]]:
    """A new file to append to, seen onto the disk if `synced`; an error of close counts too."""
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
    """The flag without which Windows writes `\\r\\n` for each `\\n`."""
    return getattr(os, "O_BINARY", 0)


def _unless_held_open(change: Callable[[], None]) -> None:
    """Make a change that Windows refuses while another program has the file open."""
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
    """Make a change of names in `folder` survive a power loss, where the system can."""
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = system.open(folder, os.O_RDONLY)
    try:
        system.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        system.close(descriptor)


def make_folder(path: Path) -> None:
    """Create `path` and its parents, durably; an existing folder is fine."""
    if not path.is_dir():
        make_folder(path.parent)
        if not claim_folder(path) and not path.is_dir():
            raise FileExistsError(errno.EEXIST, "it is a file, not a folder", str(path))


def claim_folder(path: Path) -> bool:
    """Create `path` exclusively, its parents too; False when it was there already."""
    make_folder(path.parent)
    try:
        system.mkdir(path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def release_folder(path: Path) -> None:
    """Remove an empty folder that was claimed; one that holds something stays."""
    with contextlib.suppress(OSError):
        system.rmdir(path)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Callable[[bytes | memoryview], None]]:
    """A new file in a folder that nobody reads yet: neither atomic nor synced.

    Raises:
        FileExistsError: there is one of that name.
        OSError: it cannot be written.
    """
    with _created(path) as append:
        yield append


def make_plain_folder(path: Path) -> None:
    """Create `path` and its parents, not synced."""
    missing = list(itertools.takewhile(lambda folder: not folder.is_dir(), (path, *path.parents)))
    for folder in reversed(missing):
        system.mkdir(folder)


def remove_tree(path: Path) -> None:
    """Remove a folder of the cache with all that is in it, as far as that can be removed."""
    for where, folders, names in os.walk(path, topdown=False):
        for name in names:
            discard(Path(where, name))
        for name in folders:
            release_folder(Path(where, name))
    release_folder(path)


def remove(path: Path) -> None:
    """Remove a file; one that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        _unless_held_open(lambda: system.unlink(path))


def discard(path: Path) -> None:
    """Remove a file nobody needs; one that cannot be removed is left for the next run."""
    with contextlib.suppress(OSError):
        system.unlink(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        discard(path)


def is_leftover(name: str) -> bool:
    """Whether a file called `name` may be left of a process that was killed while it began."""
    return name in LOCK_FILES or name.startswith(TEMPORARY_PREFIX)


def probe(folder: Path) -> None:
    """Write a small file into `folder` and remove it again.

    Raises:
        OSError: it cannot be written there.
    """
    path = folder / f"{TEMPORARY_PREFIX}probe"
    atomic_write(path, bytes(PROBE_BYTES))
    discard(path)


def free_space(folder: Path) -> int:
    """Bytes that can still be written into `folder`."""
    return shutil.disk_usage(folder).free


HAS_CHANGE_TIME = os.name != "nt"
"""Whether st_ctime is the time a file was changed; on Windows it is that of its creation."""


def identity_of(path: Path, status: os.stat_result) -> str:
    """What changes when a file is replaced in place, its size and modification time kept.

    Inode and change time, which no program can set; where a system has no change time, a hash of
    the content, and nothing where it cannot be read.
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
        OSError: it cannot be opened.
        ValueError: it is no regular file (a FIFO, a device, a folder).
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer
    try:
        descriptor = os.open(path, os.O_RDONLY | _binary() | getattr(os, "O_NONBLOCK", 0))
    except PermissionError:  # what Windows says of a folder
        if path.is_dir():
            raise ValueError("it is no regular file") from None
        raise
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
        # of a file that grows, what was there; files of /proc say they have no size
        return file.read(size or limit)


def map_readonly(file: BinaryIO) -> tuple[mmap.mmap, Callable[[], None]]:
    """Map a file of at least one byte; also a function that gives the memory of its pages back."""
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def unmap() -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    return mapping, unmap


def sha256(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def turn(path: Path, *, what: str, patience: float, report: Report) -> Iterator[None]:
    """Hold the lock file `path`, after waiting for the process that holds it.

    Args:
        path: as of `lock`.
        what: as of `lock`.
        patience: seconds to wait.
        report: told that there is somebody to wait for.

    Raises:
        EnvironmentFailure: that process does not end, or the file system has no locks.
        OSError: as `lock`.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count():
            try:
                stack.enter_context(lock(path, what=what))
                break
            except BusyError as busy:
                if time.monotonic() - start > patience:
                    raise EnvironmentFailure(
                        f"{busy.message}: {path.parent}: it does not end",
                        "End that process, or choose another folder with --data-dir.",
                    ) from None
                if attempt == 0:
                    report(f"{busy.message}; waiting for it")
                time.sleep(0.1)
        yield


@contextlib.contextmanager
def lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the process dies.

    Raises:
        BusyError: another process holds it; the message names that process.
        EnvironmentFailure: the file system has no locks.
        OSError: the lock file cannot be opened.
    """
    import filelock

    guard: filelock.BaseFileLock = filelock.FileLock(path)
    holder = path.with_name(LOCK_FILES[1])
    no_locks = EnvironmentFailure(
        f"{path}: the file system has no locks",
        "Choose a folder on another file system with -o or --data-dir.",
    )
    try:
        with warnings.catch_warnings():
            # filelock warns before it goes over to a soft lock, which outlives a killed process
            warnings.simplefilter("error", UserWarning)
            guard.acquire(timeout=0)
    except (NotImplementedError, UserWarning):
        raise no_locks from None
    except filelock.Timeout:
        who = "another process"
        with contextlib.suppress(OSError, ValueError):
            who = read_capped(holder, 200).decode("utf-8", "replace").strip() or who
        raise BusyError(
            f"{what} is in use by {who}", "Wait for it to end, or choose another output with -o."
        ) from None
    try:
        with contextlib.suppress(OSError):  # a courtesy to others: it need not outlive us
            discard(holder)
            _create(holder, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        try:
            discard(holder)
        finally:
            guard.release()
