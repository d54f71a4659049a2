"""A double of Windows: this process refuses, and changes, what Windows would.

    pytest -p doubles.windows                    # the suite under it (pytest 8.4 or newer)
    python -m doubles.windows '[["eval"], ...]'  # command lines under it, from a JSON list

It is no Windows. It has what differs in the calls that vaecli makes of the system:

- a descriptor opened without O_BINARY writes `\\r\\n` for each `\\n`;
- a folder cannot be opened;
- a file that is open or mapped, by this process, can be neither replaced nor removed;
- `sysconf`, `sched_getaffinity`, `madvise` and SIGHUP do not exist;
- wildcards come as they are typed, commands are quoted for cmd, and no folder is synced.

`changed` and `refused` tell what it did; a test that opens a file and replaces it through `os`
itself is not held up.
"""

from __future__ import annotations

import errno
import importlib
import json
import mmap
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from vaecli.system import shell

real_takes_escapes = shell.takes_escapes
"""The function itself, which `install` replaces."""
# made for the system they are loaded on: before the doors close
LIBRARIES = ("torch", "safetensors.torch", "matplotlib.figure", "PIL.Image", "filelock")
O_BINARY = 0x8000
_text: dict[int, str] = {}
changed: list[tuple[str, int, int]] = []
"""File, bytes that vaecli wrote, bytes that arrived, where text mode made them differ."""
refused: list[tuple[str, str, str]] = []
"""Call, file, and who has it open."""


class NtOs(types.ModuleType):
    """`os` as vaecli's modules see it."""

    name = "nt"
    O_BINARY = O_BINARY

    @staticmethod
    def open(path: Any, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        descriptor = os.open(path, flags & ~O_BINARY, mode)
        _text.pop(descriptor, None)
        if not flags & O_BINARY:
            _text[descriptor] = os.fspath(path)
        return descriptor

    @staticmethod
    def write(descriptor: int, data: Any) -> int:
        if descriptor not in _text:
            return os.write(descriptor, data)
        raw = bytes(data)
        translated = raw.replace(b"\n", b"\r\n")
        if translated != raw:
            changed.append((_text[descriptor], len(raw), len(translated)))
        view = memoryview(translated)
        while view:
            view = view[os.write(descriptor, view) :]
        return len(raw)  # as the C library counts

    @staticmethod
    def close(descriptor: int) -> None:
        _text.pop(descriptor, None)
        os.close(descriptor)

    @staticmethod
    def replace(source: Any, target: Any) -> None:
        _refuse_open("replace", source, 32)
        _refuse_open("replace", target, 5)
        os.replace(source, target)

    @staticmethod
    def unlink(path: Any) -> None:
        _refuse_open("unlink", path, 32)
        os.unlink(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _refuse_open(call: str, path: Any, winerror: int) -> None:
    who = _user(path)
    if who is not None:
        refused.append((call, os.fspath(path), who))
        raise PermissionError(errno.EACCES, f"[WinError {winerror}] {who}", os.fspath(path))


def _user(path: Any) -> str | None:
    """How this process uses a file, or None."""
    try:
        wanted = os.stat(path)
    except OSError:
        return None
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.stat(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if os.path.samestat(found, wanted):
            return f"open as descriptor {name}"
    full = os.path.realpath(path)
    maps = Path("/proc/self/maps").read_text().splitlines()
    return "mapped" if any(line.endswith(full) for line in maps) else None


def install() -> None:
    """Turn this process into the double, for as long as it lives."""
    import shellingham

    from vaecli.cli import app
    from vaecli.system import files, signals

    for name in LIBRARIES:
        importlib.import_module(name)
    for name in ("sysconf", "sched_getaffinity"):
        if hasattr(os, name):
            delattr(os, name)
    for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
        delattr(mmap, name)
    signals.SIGNALS = tuple(number for number in signals.SIGNALS if number != signal.SIGHUP)
    del signal.SIGHUP
    nt: Any = NtOs("os")
    for module in (app, files, shell):
        module.os = nt  # type: ignore[attr-defined]
    for name in ("open", "write", "close", "replace", "unlink"):
        setattr(files.system, name, getattr(nt, name))
    files.HELD_OPEN_WAIT = 0.1
    shell.takes_escapes = lambda descriptor: True
    shellingham.detect_shell = lambda: ("cmd", "cmd.exe")


def pytest_configure() -> None:
    install()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail for a file that text mode changed, even where no test looked at its bytes."""
    if changed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"double of Windows: {len(refused)} calls refused: {refused[:20]}")
    terminalreporter.write_line(f"text mode changed {len(changed)} writes: {changed[:5]}")


def main(lines: list[list[str]]) -> None:
    """Run command lines one after the other; prints what became of them as JSON."""
    from vaecli.cli import app

    install()
    codes = [app.run(words) for words in lines]
    text = json.dumps({"codes": codes, "changed": changed, "refused": refused})
    Path("double.json").write_text(text)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
