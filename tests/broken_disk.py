"""A disk that dies, fails or loses power at the N-th call, in place of `files.system`."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vaecli.system import files

CALLS = tuple(name for name in vars(files.OperatingSystem) if not name.startswith("_"))


class Killed(BaseException):
    """The process is dead: nothing may catch this, and no clean-up may touch the disk."""


class BreakingSystem(files.OperatingSystem):
    """Counts calls, and does at the `when`-th, counted from 1, what a fault does.

    Args:
        when: the call that breaks.
        fault: `kill` before the call, `torn` to be killed in the middle of a write, or the name
            of an errno that the call fails with.
        kinds: the calls that count.
    """

    def __init__(self, when: int, fault: str, kinds: tuple[str, ...] = CALLS) -> None:
        self.log: list[tuple[str, str]] = []
        """Name and path of each call that was begun."""
        self.broken: tuple[str, str] | None = None
        """The call that broke."""
        self._left, self._fault, self._kinds = when, fault, kinds
        self._paths: dict[int, str] = {}
        for name in CALLS:
            setattr(self, name, self._wrapped(name, getattr(os, name)))

    @property
    def dead(self) -> bool:
        return self.broken is not None and self._fault in ("kill", "torn")

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if self.dead:
                if name == "close":  # the kernel closes what a dead process had open
                    call(*arguments)
                raise Killed
            path = arguments[-1] if name == "replace" else arguments[0]
            path = self._paths[path] if isinstance(path, int) else str(path)
            self.log.append((name, path))
            self._left -= name in self._kinds
            if self._left == 0 and self.broken is None:
                self.broken = name, path
                self._break(name, call, arguments)
            if name == "fsync":  # what is tested is the order of calls, not the disk
                return None
            outcome = call(*arguments)
            if name == "open":
                self._paths[outcome] = path
            return outcome

        return wrapped

    def _break(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self._fault == "torn":
            call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        if name == "close":  # whatever happens, it is closed then
            call(*arguments)
        if self.dead:
            raise Killed
        number = getattr(errno, self._fault)
        raise OSError(number, os.strerror(number))


class RecordingSystem(files.OperatingSystem):
    """Does every call, and keeps what a disk would have to make of it: see `PowerLoss`."""

    def __init__(self) -> None:
        self.trace: list[tuple[Any, ...]] = []
        self._open: dict[int, tuple[str, str]] = {}

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:  # type: ignore[override]
        descriptor = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self.trace.append(("create", str(path)))
        self._open[descriptor] = ("file" if flags & os.O_CREAT else "folder", str(path))
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        written = os.write(descriptor, data)
        self.trace.append(("write", self._open[descriptor][1], bytes(data[:written])))
        return written

    def fsync(self, descriptor: int) -> None:  # type: ignore[override]
        self.trace.append(("sync", *self._open[descriptor]))

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]
        os.close(descriptor)

    def replace(self, source: Any, target: Any) -> None:  # type: ignore[override]
        os.replace(source, target)
        self.trace.append(("replace", str(source), str(target)))

    def unlink(self, path: Any) -> None:  # type: ignore[override]
        os.unlink(path)
        self.trace.append(("unlink", str(path)))

    def mkdir(self, path: Any) -> None:  # type: ignore[override]
        os.mkdir(path)
        self.trace.append(("mkdir", str(path)))


class _File:
    """Bytes on the disk, and writes that are only on their way there."""

    def __init__(self) -> None:
        self.synced = b""
        self.pending: list[bytes] = []


class _Folder:
    """Names on the disk, and changes of names that are only on their way there."""

    def __init__(self) -> None:
        self.names: dict[str, _File | _Folder] = {}
        self.synced: dict[str, _File | _Folder] = {}
        self.pending: list[tuple[str, _File | _Folder | None]] = []

    def change(self, name: str, node: _File | _Folder | None) -> None:
        self.pending.append((name, node))
        _apply(self.names, name, node)


def _apply(names: dict[str, _File | _Folder], name: str, node: _File | _Folder | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class PowerLoss:
    """What a disk may hold after the power fails in a recorded trace.

    Of what was not synced, each write is kept, lost or turned to garbage, and each change of a
    name is kept or lost, independently: more than any file system does.  What was synced stays.
    Names are relative to `root`, which is on the disk from the start.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.top = _Folder()

    def _find(self, path: str) -> tuple[_Folder, str]:
        folder = self.top
        *parents, name = Path(path).relative_to(self._root).parts
        for parent in parents:
            found = folder.names[parent]
            assert isinstance(found, _Folder)
            folder = found
        return folder, name

    def play(self, call: tuple[Any, ...]) -> None:
        """Take one call of the trace to the disk's cache."""
        kind, path = call[0], call[1]
        if kind == "sync":
            self._sync(kind, *call[1:])
            return
        folder, name = self._find(path)
        if kind == "create":
            folder.change(name, _File())
        elif kind == "mkdir":
            folder.change(name, _Folder())
        elif kind == "unlink":
            folder.change(name, None)
        elif kind == "write":
            file = folder.names[name]
            assert isinstance(file, _File)
            file.pending.append(call[2])
        elif kind == "replace":
            node = folder.names[name]
            target, target_name = self._find(call[2])
            folder.change(name, None)
            target.change(target_name, node)

    def _sync(self, _kind: str, what: str, path: str) -> None:
        if what == "folder" and Path(path) == self._root:
            node: _File | _Folder = self.top
        else:
            folder, name = self._find(path)
            node = folder.names[name]
        if isinstance(node, _Folder):
            node.synced, node.pending = dict(node.names), []
        else:
            node.synced, node.pending = node.synced + b"".join(node.pending), []

    def crash(self, rng: random.Random, into: Path) -> None:
        """Write what is left into the folder `into`."""
        self._write(self.top, rng, into)

    def _write(self, folder: _Folder, rng: random.Random, into: Path) -> None:
        into.mkdir(exist_ok=True)
        names = dict(folder.synced)
        for name, node in folder.pending:
            if rng.random() < 0.5:
                _apply(names, name, node)
        for name, node in names.items():
            if isinstance(node, _Folder):
                self._write(node, rng, into / name)
            else:
                kept = [part for data in node.pending for part in _survivors(data, rng)]
                (into / name).write_bytes(node.synced + b"".join(kept))


def _survivors(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """What is left of an unsynced write, sector by sector."""
    for start in range(0, len(data), 512):
        sector = data[start : start + 512]
        fate = rng.random()
        if fate < 0.4:
            yield sector
        elif fate < 0.6:
            yield rng.randbytes(len(sector))
        elif fate < 0.8:
            yield bytes(len(sector))


@contextmanager
def disk(system: files.OperatingSystem) -> Iterator[None]:
    """Let vaecli write through `system`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "system", system)
        yield
