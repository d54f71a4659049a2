"""Locks between processes: of a run directory, and of a folder of the cache.

The kernel frees a lock when its process dies.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from vaecli.errors import BusyError, EnvironmentFailure
from vaecli.system import files
from vaecli.system.callbacks import Report

LOCK_FILES = ("lock", "holder")
"""The lock file of a run, and the file beside a lock that names the process holding it."""


@contextlib.contextmanager
def hold(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path` within the block.

    Args:
        path: the lock file; created if it is missing.
        what: what is locked, for the message.

    Raises:
        BusyError: another process holds the lock; the message names that process.
        EnvironmentFailure: the file system does not support locks.
        OSError: the lock file cannot be opened.
    """
    import filelock

    guard: filelock.BaseFileLock = filelock.FileLock(path)
    holder = path.with_name(LOCK_FILES[1])
    try:
        with warnings.catch_warnings():
            # filelock warns before it falls back to a soft lock, which outlives a killed process
            warnings.simplefilter("error", UserWarning)
            guard.acquire(timeout=0)
    except (NotImplementedError, UserWarning):
        raise EnvironmentFailure(
            f"{path}: the file system does not support locks",
            "Choose a folder on another file system with -o or --data-dir.",
        ) from None
    except filelock.Timeout:
        raise BusyError(
            f"{what} is in use by {_process_in(holder)}",
            "Wait for it to end, or choose another output with -o.",
        ) from None
    try:
        with contextlib.suppress(OSError):  # only for the message of others
            files.discard(holder)
            with files.new_file(holder) as write:
                write(f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        try:
            files.discard(holder)
        finally:
            guard.release()


@contextlib.contextmanager
def hold_when_free(path: Path, *, what: str, patience: float, report: Report) -> Iterator[None]:
    """Hold the lock file `path` within the block; wait while another process holds it.

    Args:
        path: the lock file; created if it is missing.
        what: what is locked, for the messages.
        patience: seconds to wait.
        report: called once if there is another process to wait for.

    Raises:
        EnvironmentFailure: the other process still held it after `patience` seconds, or the file
            system has no locks.
        OSError: the lock file cannot be opened.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count():
            try:
                stack.enter_context(hold(path, what=what))
                break
            except BusyError as busy:
                if time.monotonic() - start > patience:
                    raise EnvironmentFailure(
                        f"{busy.message}: {path.parent}: it did not finish within {patience:.0f} s",
                        "End that process, or choose another folder with --data-dir.",
                    ) from None
                if attempt == 0:
                    report(f"{busy.message}; waiting for it")
                time.sleep(0.1)
        yield


def _process_in(holder: Path) -> str:
    """The process that a holder file names."""
    name = ""
    with contextlib.suppress(OSError, ValueError):
        name = files.read_capped(holder, 200).decode("utf-8", "replace").strip()
    return name or "another process"
