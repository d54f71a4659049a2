"""Refuses what no test may do: reach beyond loopback, or write outside the tests' own folders.

conftest.py imports this; Python processes that a test starts import it by its name, because it is
on their PYTHONPATH.  The call fails as it would without a network or without permission, and the
deed goes on record, so that the test fails even where the error is handled.

Two variables say what to do: TESTS_GUARD_LOG, the file of the record, and TESTS_GUARD_FOLDERS,
where writing is allowed.  Without them nothing is watched.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

LOG = "TESTS_GUARD_LOG"
FOLDERS = "TESTS_GUARD_FOLDERS"
_SYSTEM = ("/dev", "/proc", "/sys")  # devices and switches: nothing stays there
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": (0, 2), "os.rmdir": (0, 1), "os.remove": (0, 1),
    "os.rename": (1, 2), "os.link": (1, 2), "os.symlink": (1, 2),
}  # fmt: skip
"""Events of names that come or go: the index of the path, and of the first dir_fd."""
_LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_OWN_NAMES = ("", "localhost", "0.0.0.0", "::", socket.gethostname())


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if LOG not in os.environ:
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        connection, address = arguments[0], arguments[1]
        family = getattr(connection, "family", None)
        if family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            _require_loopback(event, address[0])
    elif event in _LOOK_UPS:
        _require_loopback(event, arguments[0])
    elif event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING:
            _require_own(event, path)
    elif event in _CHANGES:
        path, descriptors = _CHANGES[event]
        if all(descriptor == -1 for descriptor in arguments[descriptors:]):
            _require_own(event, arguments[path], follow=False)


def _require_loopback(event: str, host: object) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and name not in _OWN_NAMES:
        address = name.removeprefix("::ffff:")
        if not address.startswith("127.") and address != "::1":
            _record(f"{event} {name}")
            raise OSError(errno.ENETUNREACH, "no test may reach beyond this machine")


def _require_own(event: str, path: object, *, follow: bool = True) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return  # a descriptor
    name = os.path.abspath(os.fsdecode(path))
    folder, last = os.path.split(name)
    name = os.path.realpath(name if follow else folder) + ("" if follow else os.sep + last)
    if "__pycache__" in name:
        return  # Python's own
    allowed = (*os.environ.get(FOLDERS, "").split(os.pathsep), *_SYSTEM)
    if not any(name == folder or name.startswith(folder + os.sep) for folder in allowed):
        _record(f"{event} {name}")
        raise PermissionError(errno.EACCES, "no test may write outside its own folders", name)


def _record(deed: str) -> None:
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(log, f"{deed!r} by process {os.getpid()}: {sys.argv[:8]}\n".encode())
    os.close(log)


sys.addaudithook(_watch)
