"""A name becomes images: the built-in digits, or MNIST and its relatives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import platformdirs
import torch

from vaecli.data import cache, digits, named
from vaecli.data.dataset import Dataset, Images
from vaecli.errors import DataError, EnvironmentFailure, UsageError

AUTO = "auto"
BUILT_IN = "digits"
NAMES = (BUILT_IN, *named.NAMES)
DIGITS = (BUILT_IN, "mnist")
"""Sets of single digits, scaled and centred as MNIST's are."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]


def default_folder() -> Path:
    """Where named sets are kept unless --data-dir says otherwise."""
    return Path(platformdirs.user_cache_dir("vaecli"))


def load(
    name: str,
    *,
    folder: Path | None = None,
    download: bool = True,
    report: Say = lambda text: None,
    progress: Progress | None = None,
) -> Dataset:
    """The images called `name`.

    Args:
        name: one of `NAMES`, or `auto`: MNIST if it is there or can be had, else the digits.
        folder: where named sets are kept; `default_folder()` for None.
        download: whether the network may be used.
        report: told what a person should know, such as a fallback.
        progress: told (what, done, total) during long work.

    Raises:
        UsageError: no set has that name.
        EnvironmentFailure: it is not there and cannot be had.
    """
    folder = default_folder() if folder is None else folder
    if name == AUTO:
        return _auto(folder, download, report, progress)
    if name == BUILT_IN:
        return _built_in(folder, progress)
    if name in named.NAMES:
        return named.load(name, folder, allow_download=download, progress=progress, report=report)
    raise UsageError(
        f"--data {name}: no such data set", f"Choose one of {', '.join((AUTO, *NAMES))}."
    )


def _auto(folder: Path, download: bool, report: Say, progress: Progress | None) -> Dataset:
    found = named.find("mnist", folder, report=report)
    if found is not None:
        return found
    reason = "it is not in the data folder, and downloads are off"
    if download:
        reason = "it is not in the data folder, and no download server answers"
        if named.reachable("mnist"):
            try:
                return named.download("mnist", folder, progress=progress, report=report)
            except EnvironmentFailure as error:
                reason = error.message
    report(
        f"MNIST is not available ({reason}): using the built-in digits instead."
        " Their losses do not compare with MNIST's."
    )
    return _built_in(folder, progress)


def _built_in(folder: Path, progress: Progress | None) -> Dataset:
    """The drawn digits, from the cache where there is one."""
    path = cache.cache_path(f"{BUILT_IN}-{digits.VERSION}", folder)
    with contextlib.suppress(OSError, DataError):
        return cache.read_cache(path, BUILT_IN)
    splits = []
    for split in ("train", "test"):
        tell = None if progress is None else partial(progress, f"drawing {split} digits")
        pixels, labels = digits.draw_digits(split, progress=tell)
        splits.append(Images(torch.from_numpy(pixels), torch.from_numpy(labels)))
    dataset = Dataset(BUILT_IN, *splits)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, no more
        cache.write_cache(path, dataset)
    return dataset
