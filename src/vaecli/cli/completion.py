"""Shell completion of the values that are known without importing torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vaecli.tracking.names import CLASSES

DATA_NAMES = (
    *("auto", "digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "emnist-letters"),
    *("emnist-balanced", "omniglot", "usps", "svhn"),
)
"""Those of `catalogue.NAMES`, which imports torch: too slow for the completion of a word."""


def data(incomplete: str) -> list[str]:
    """Named sets, for a shell; where none fits, the shell goes on with files."""
    return _starting(incomplete, DATA_NAMES)


def runs(incomplete: str) -> list[str]:
    """`latest`, `digits` and the numbered runs, the newest first."""
    found = sorted((str(path.parent) for path in Path("runs").glob("*/config.json")), reverse=True)
    return _starting(incomplete, ["latest", "digits", *found])


def devices(incomplete: str) -> list[str]:
    """What --device takes."""
    return _starting(incomplete, ["auto", "cpu", "cuda", "mps"])


def trackers(incomplete: str) -> list[str]:
    """What --track takes."""
    return _starting(incomplete, CLASSES)


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
