"""Callback types for messages and progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Called with a sentence for the user."""
Progress = Callable[[str, int, int | None], None]
"""Called with (what, done, total); total is None if unknown."""


def no_report(text: str) -> None:
    """A `Report` that does nothing."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """A `Progress` that does nothing."""
