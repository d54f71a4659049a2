"""Ctrl-C, Ctrl-Break, SIGTERM and SIGHUP: stop at once, or after the step when that can be saved.

Handlers are installed before torch is imported, so that a signal during start-up is clean too.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from vaecli.system import shell

SIGNALS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if (number := getattr(signal, name, None)) is not None
)


CTRL_BREAK: int | None = getattr(signal, "SIGBREAK", None)


class StopFlag:
    """Remembers the first signal; a second one ends the process at once.

    The first one raises KeyboardInterrupt, with three exceptions: within `deferred` it is only
    remembered; after `leave_with` it ends the process; and so it does during an import, since
    libraries catch exceptions there and go on half imported.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False
        self._last_words: str | None = None
        self.patient = False
        """Whether a second signal is ignored: torchrun forwards a signal that the process already
        got from the terminal, and kills by itself a process that takes too long."""

    def install(self) -> None:
        """Install the handlers; a signal ignored at the start stays ignored, as nohup wants it."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells count; Ctrl-Break counts as Ctrl-C."""
        received = signal.SIGINT if self.received == CTRL_BREAK else self.received
        return 128 + (received or 0)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block the first signal only sets `received`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            self._last_words = None

    def leave_with(self, last_words: str) -> None:
        """From here to the end of the `deferred` block, a signal ends the process at once.

        Args:
            last_words: printed to stderr before the process ends.

        Raises:
            KeyboardInterrupt: a signal was received already.
        """
        self._last_words = last_words
        if self.received is not None:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if self.patient:
                return
            self._leave("")
        self.received = number
        if self._last_words is not None:
            self._leave(self._last_words)
        if self._deferring:
            return
        if _inside_an_import(frame):
            self._leave("vaecli: stopped.")
        raise KeyboardInterrupt

    def _leave(self, last_words: str) -> NoReturn:
        with contextlib.suppress(OSError):
            if os.isatty(2) and shell.takes_escapes(2):  # a live bar hides the cursor
                os.write(2, b"\r\x1b[K\x1b[?25h")
            os.write(
                2, f"{last_words}\n".encode("utf-8", "backslashreplace") if last_words else b""
            )
        os._exit(self.exit_code)


def _inside_an_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


stop_flag = StopFlag()
"""The only one: a process has one set of signal handlers."""
