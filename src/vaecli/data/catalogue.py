"""Loads the images that --data names: the built-in digits, MNIST and its relatives, or your own."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path

from vaecli.data.dataset import Dataset, Images
from vaecli.data.named import cache, digits, downloads, sets
from vaecli.data.origin import Options
from vaecli.data.own import archive_members, arrays, hub_data, parquet, prepare
from vaecli.data.own.sources import Preparation
from vaecli.data.reading import Reading
from vaecli.errors import DataError, EnvironmentFailure, UsageError, option_name

AUTO = "auto"
BUILT_IN = "digits"
NAMES = (BUILT_IN, *sets.NAMES)
DIGITS = (BUILT_IN, "mnist")
"""Sets of single digits, scaled and centred as MNIST's are."""


def load(
    name: str,
    reading: Reading,
    options: Options | None = None,
    preparation: Preparation | None = None,
) -> Dataset:
    """The images called `name`.

    Args:
        name: one of `NAMES`, or `auto`: MNIST if it is there or can be had, else the digits;
            anything else is the path of a folder of images or of an array file.
        reading: where sets are kept, whether the network may be used, whom to tell.
        options: for images at a path: size, channels and the like.
        preparation: brings them to a model's shape; None for a shape that suits them.

    Raises:
        UsageError: no set has that name, or `options` do not apply.
        DataError: the user's images cannot be read.
        EnvironmentFailure: the set is not there and cannot be downloaded.
    """
    if is_path(name):
        location = name if hub_data.is_address(name) else Path(name)
        return prepare.load(location, options or Options(), reading, preparation)
    _refuse(name, options)
    if name == AUTO:
        return _auto(reading)
    if name == BUILT_IN:
        return _built_in(reading)
    return downloads.load(name, reading)


def is_path(name: str) -> bool:
    """Whether `name` is the path of the user's own images, not the name of a set.

    An address of the Hub counts as a path.

    Raises:
        UsageError: it is neither.
    """
    if name in (AUTO, *NAMES):
        return False
    path = Path(name)
    if hub_data.is_address(name) or prepare.is_own(path):
        return True
    what = "no such data set, folder or file"
    if path.exists():
        what = "it is a file, but neither an archive nor an array of numbers"
    raise UsageError(
        f"--data {name}: {what}",
        f"Choose one of {', '.join((AUTO, *NAMES))}, or give the path of a folder or a"
        f" {', '.join(archive_members.SUFFIXES)} of images, of a {parquet.SUFFIX} file, or of a"
        f" {', '.join(arrays.SUFFIXES[:5])} or idx file of their pixels, or"
        f" {hub_data.SCHEME}OWNER/NAME.",
    )


def place_of(name: str) -> str:
    """What is recorded of a path: the absolute one; an address of the Hub as it is."""
    return name if hub_data.is_address(name) else os.path.abspath(name)


def is_there(name: str) -> bool:
    """Whether something is at a recorded place; the Hub will say so itself."""
    return hub_data.is_address(name) or Path(name).exists()


def _refuse(name: str, options: Options | None) -> None:
    """UsageError for options that a named set does not have."""
    default = Options()
    wrong = [
        option_name(field)
        for field in (
            *("image_size", "channels", "fit", "max_value", "test_fraction"),
            *("image_column", "label_column"),
        )
        if options is not None and getattr(options, field) != getattr(default, field)
    ]
    if wrong:
        raise UsageError(
            f"{' and '.join(wrong)} only works on your own images, not on --data {name}",
            "Leave it out, or name a folder of images.",
        )


def _auto(reading: Reading) -> Dataset:
    found = sets.find("mnist", reading.folder, guess=True, report=reading.report)
    if found is not None:
        return found
    reason = "it is not in the data folder, and downloads are off"
    if reading.download:
        reason = "it is not in the data folder, and no download server answers"
        if downloads.reachable("mnist"):
            try:
                return downloads.download("mnist", reading)
            except EnvironmentFailure as error:
                reason = error.message
    reading.report(
        f"MNIST is not available ({reason}): using the built-in digits instead."
        " Their losses cannot be compared with MNIST's. `vaecli train --data mnist` says where its"
        " files may be put."
    )
    return _built_in(reading)


def _built_in(reading: Reading) -> Dataset:
    """The drawn digits, from the cache where there is one."""
    path = cache.cache_path(f"{BUILT_IN}-{digits.VERSION}", reading.folder)
    with contextlib.suppress(OSError, DataError):
        return cache.read_cache(path, BUILT_IN)
    splits = []
    for split in ("train", "test"):
        tell = partial(reading.progress, f"drawing {split} digits")
        pixels, labels = digits.draw_digits(split, progress=tell)
        splits.append(Images(pixels, labels))
    dataset = Dataset(BUILT_IN, splits[0], splits[1])
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, no more
        cache.write_cache(path, dataset)
    return dataset
