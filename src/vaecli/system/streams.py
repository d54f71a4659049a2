"""The process's stdout and stderr: how they fail, and that Python adds no words of its own.

Python flushes both once more when it ends; what could not be written then fails again, as
"Exception ignored in ..." and exit code 120.  So each stream fails once at most: stdout where
something is written to it, stderr never.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import TextIO

STDOUT = "stdout"
"""The name of the stream in its errors."""


def install() -> None:
    """Put streams of this kind in the place of the process's own.

    A character that the encoding lacks becomes an escape, and on stdout, where names are bytes, the
    bytes of a file name: a path printed there opens again.  A descriptor that was closed is taken,
    so that no file that is opened later gets what libraries print.
    """
    codecs.register_error("vaecli-path", _path_bytes)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
    on_stdout = "backslashreplace" if os.name == "nt" else "vaecli-path"
    sys.stdout = _text(sys.stdout, STDOUT, on_stdout)
    sys.stderr = _text(sys.stderr, None, "backslashreplace")


def _path_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands in the place of characters that a stream cannot encode."""
    assert isinstance(error, UnicodeEncodeError)
    try:
        return os.fsencode(error.object[error.start : error.end]), error.end
    except UnicodeError:  # no file name has such a character
        return codecs.backslashreplace_errors(error)


def _text(stream: TextIO | None, name: str | None, errors: str) -> TextIO:
    raw = _Raw(stream, name)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding="utf-8" if stream is None else stream.encoding,
        errors=errors,
        line_buffering=name is None or raw.isatty(),
    )


class _Raw(io.RawIOBase):
    """A stream of the process; after its first failure it takes everything and drops it.

    Args:
        stream: the process's; None for one that was closed when the process started.
        name: what a failure is said to be of; None for a stream that may fail unheard.
    """

    def __init__(self, stream: TextIO | None, name: str | None) -> None:
        # python -u leaves the buffer out, and then what does not fit is lost without an error
        buffer = None if stream is None else stream.buffer
        self._target = getattr(buffer, "raw", buffer)
        self._name = name
        self._failed = False

    def writable(self) -> bool:
        """A stream to write to."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._target is not None and bool(self._target.isatty())

    def fileno(self) -> int:
        """Its descriptor."""
        if self._target is None:
            raise io.UnsupportedOperation("closed")
        return int(self._target.fileno())

    def write(self, data: bytes | memoryview) -> int | None:  # type: ignore[override]
        """Write what the system takes of `data`.

        Raises:
            OSError: the first time that it cannot be written; it names the stream.
        """
        if self._failed:
            return len(data)
        try:
            if self._target is None:
                raise OSError(errno.EBADF, "it is closed")
            count: int | None = self._target.write(data)
        except OSError as error:
            self._failed = True
            if self._name is None:
                return len(data)
            raise OSError(error.errno, error.strerror, self._name) from None
        return count
