"""Shells and consoles, where Windows differs from other systems."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_VIRTUAL_TERMINAL = 0x0004
_POWERSHELLS = ("powershell", "pwsh")
_SAFE = re.compile(r"[\w./\\:-]+", re.ASCII)


def takes_escapes(descriptor: int) -> bool:
    """Whether the terminal at `descriptor` understands escape sequences.

    A Windows console prints them as characters until they are switched on, which this does.
    """
    if os.name != "nt":
        return True
    import ctypes
    import msvcrt

    kernel: Any = ctypes.windll.kernel32  # type: ignore[attr-defined, unused-ignore]
    handle = msvcrt.get_osfhandle(descriptor)  # type: ignore[attr-defined, unused-ignore]
    console, mode = ctypes.c_void_p(handle), ctypes.c_uint32()
    if not kernel.GetConsoleMode(console, ctypes.byref(mode)):
        return False
    return bool(kernel.SetConsoleMode(console, mode.value | _VIRTUAL_TERMINAL))


def join(words: Sequence[str]) -> str:
    """Quote words as a command line for the shell that started this process."""
    shell = _windows_shell() if os.name == "nt" else "sh"
    if shell in _POWERSHELLS:
        return " ".join(_quoted(word, "'" + word.replace("'", "''") + "'") for word in words)
    if shell == "cmd":
        return " ".join(_quoted(word, f'"{word}"') for word in words)
    return shlex.join(words)


def _quoted(word: str, quoted: str) -> str:
    return word if _SAFE.fullmatch(word) else quoted


def _windows_shell() -> str:
    import shellingham

    try:
        return str(shellingham.detect_shell()[0])
    except (shellingham.ShellDetectionFailure, OSError):
        return "cmd"


def expanded(names: Iterable[str]) -> Iterator[str]:
    """Expand wildcards on Windows, where the shell does not.

    A name that is a file, or that matches no file, stays as it is.
    """
    for name in names:
        matches = []
        if os.name == "nt" and not os.path.exists(name):
            import glob

            matches = sorted(glob.glob(name))
        yield from matches or [name]
