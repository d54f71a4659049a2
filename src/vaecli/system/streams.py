"""Replacements for stdout and stderr that fail at most once.

Python flushes both at exit; output that could not be written would fail again there, with
"Exception ignored in ..." and exit code 120.  So stdout raises only its first write error; stderr
never raises.
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
"""The name of stdout in its errors."""


def install() -> None:
    """Replace sys.stdout and sys.stderr.

    Characters that the encoding lacks are escaped; on stdout of POSIX systems they become the bytes
    of the file name they come from, so that a printed path can be opened.  A closed descriptor 0, 1
    or 2 is opened on the null device: else the next file opened would get what libraries print.
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
    """Error handler of encoding: the bytes that stand for these characters in file names."""
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
    """A raw stream that discards what is written after its first failure.

    Args:
        stream: the original stream; None if it was closed when the process started.
        name: the file name in its error; None to raise no error.
    """

    def __init__(self, stream: TextIO | None, name: str | None) -> None:
        # with python -u there is no buffer, and a partial write would be lost without an error
        buffer = None if stream is None else stream.buffer
        self._target = getattr(buffer, "raw", buffer)
        self._name = name
        self._failed = False

    def writable(self) -> bool:
        """Always."""
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
        """Write `data`, or the part of it that the system accepts.

        Raises:
            OSError: the first failure; it names the stream.
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
