"""Whom long work tells how it goes: a person who reads, a bar that moves."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Told what a person should know, as a sentence."""
Progress = Callable[[str, int, int | None], None]
"""Told (what, done, total); total is None where nobody knows it."""


def nobody(text: str) -> None:
    """A `Report` that goes nowhere."""


def unseen(what: str, done: int, total: int | None) -> None:
    """A `Progress` that goes nowhere."""
