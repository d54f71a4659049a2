"""Ctrl-C, SIGTERM and SIGHUP: stop at once, or after the step when someone is able to save.

Handlers are installed before torch is imported, so that a signal during start-up is clean too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None
)


class StopFlag:
    """Remembers the first signal; a second one leaves the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False

    def install(self) -> None:
        """Listen; a signal that was ignored when the process started stays ignored (nohup)."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells count."""
        return 128 + (self.received or 0)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a first signal only sets `received`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + self.received)
        self.received = number
        if not self._deferring:
            raise KeyboardInterrupt


stop_flag = StopFlag()
"""The process has one: signals are the process's."""
