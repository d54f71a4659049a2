"""Loads the images that --data names: the built-in digits, MNIST and its relatives, or your own."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import platformdirs
import torch

from vaecli.config import option_name
from vaecli.data.dataset import Dataset, Images
from vaecli.data.named import cache, digits, downloads, sets
from vaecli.data.origin import Options
from vaecli.data.own import archive_members, arrays, prepare
from vaecli.data.own.sources import Preparation
from vaecli.errors import DataError, EnvironmentFailure, UsageError
from vaecli.system.callbacks import Progress, Report, no_report

AUTO = "auto"
BUILT_IN = "digits"
NAMES = (BUILT_IN, *sets.NAMES)
DIGITS = (BUILT_IN, "mnist")
"""Sets of single digits, scaled and centred as MNIST's are."""


def default_folder() -> Path:
    """Where named sets are kept unless --data-dir says otherwise."""
    return Path(platformdirs.user_cache_dir("vaecli"))


def load(
    name: str,
    *,
    options: Options | None = None,
    preparation: Preparation | None = None,
    folder: Path | None = None,
    download: bool = True,
    memory: int | None = None,
    checked: bool = False,
    report: Report = no_report,
    progress: Progress | None = None,
) -> Dataset:
    """The images called `name`.

    Args:
        name: one of `NAMES`, or `auto`: MNIST if it is there or can be had, else the digits;
            anything else is the path of a folder of images or of an array file.
        options: for images at a path: size, channels and the like.
        preparation: brings them to a model's shape; None for a shape that suits them.
        folder: where named sets and prepared images are kept; `default_folder()` for None.
        download: whether the network may be used.
        memory: bytes of the user's images held in memory; None for half the machine's.
        checked: whether another process has just read the user's images, prepared and undamaged.
        report: called with messages for the user, such as a fallback.
        progress: called with (description, done, total) during long work.

    Raises:
        UsageError: no set has that name, or `options` do not apply.
        DataError: the user's images cannot be read.
        EnvironmentFailure: the set is not there and cannot be downloaded.
    """
    folder = default_folder() if folder is None else folder
    if is_path(name):
        return prepare.load(
            Path(name),
            options or Options(),
            data_dir=folder,
            preparation=preparation,
            memory=memory,
            checked=checked,
            report=report,
            progress=progress,
        )
    _refuse(name, options)
    if name == AUTO:
        return _auto(folder, download, report, progress)
    if name == BUILT_IN:
        return _built_in(folder, progress)
    return downloads.load(name, folder, allow_download=download, progress=progress, report=report)


def is_path(name: str) -> bool:
    """Whether `name` is the path of the user's own images, not the name of a set.

    Raises:
        UsageError: it is neither.
    """
    if name in (AUTO, *NAMES):
        return False
    path = Path(name)
    if prepare.is_own(path):
        return True
    what = "no such data set, folder or file"
    if path.exists():
        what = "it is a file, but neither an archive nor an array of numbers"
    raise UsageError(
        f"--data {name}: {what}",
        f"Choose one of {', '.join((AUTO, *NAMES))}, or give the path of a folder or a"
        f" {', '.join(archive_members.SUFFIXES)} of images, or of a"
        f" {', '.join(arrays.SUFFIXES[:5])} or idx file of their pixels.",
    )


def _refuse(name: str, options: Options | None) -> None:
    """UsageError for options that a named set does not have."""
    default = Options()
    wrong = [
        option_name(field)
        for field in ("image_size", "channels", "fit", "max_value", "test_fraction")
        if options is not None and getattr(options, field) != getattr(default, field)
    ]
    if wrong:
        raise UsageError(
            f"{' and '.join(wrong)} only works on your own images, not on --data {name}",
            "Leave it out, or name a folder of images.",
        )


def _auto(folder: Path, download: bool, report: Report, progress: Progress | None) -> Dataset:
    found = sets.find("mnist", folder, guess=True, report=report)
    if found is not None:
        return found
    reason = "it is not in the data folder, and downloads are off"
    if download:
        reason = "it is not in the data folder, and no download server answers"
        if downloads.reachable("mnist"):
            try:
                return downloads.download("mnist", folder, progress=progress, report=report)
            except EnvironmentFailure as error:
                reason = error.message
    report(
        f"MNIST is not available ({reason}): using the built-in digits instead."
        " Their losses cannot be compared with MNIST's."
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
    dataset = Dataset(BUILT_IN, splits[0], splits[1])
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, no more
        cache.write_cache(path, dataset)
    return dataset
