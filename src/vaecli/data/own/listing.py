"""Finds the image files below a folder by their suffix; links cannot make it loop."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vaecli.data import formats
from vaecli.data.splits_and_classes import HIDDEN, others_by_suffix
from vaecli.errors import DataError

MAC_METADATA = "__MACOSX"
"""The folder that macOS adds to its archives; no file in it is an image."""


def find_images(folder: Path) -> tuple[list[Path], dict[str, int]]:
    """The images under `folder` in order of their paths, and counts of other files by reason.

    Raises:
        DataError: there is no image, or a folder cannot be listed.
    """
    others = Counter[str]()
    found = sorted(folder / path for path, _ in walk(folder, others))
    if not found:
        raise no_images(folder, others)
    return found, others_by_suffix(others)


def no_images(folder: Path, others: Mapping[str, int]) -> DataError:
    """The error for a folder without images: the suffixes looked for, and what is there."""
    endings = ", ".join(sorted(formats.suffixes()))
    there = "; ".join(f"{count:,} {reason}" for reason, count in others_by_suffix(others).items())
    return DataError(
        f"no images in {folder}: no file there or in its subfolders ends in {endings}"
        + (f"; it holds {there}" if there else ""),
        f"Name the set with --data, and this folder with --data-dir {folder}."
        if any(folder.glob("*-ubyte*"))
        else "Check the folder.",
    )


def walk(root: Path, others: Counter[str]) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below `root` with the suffix of an image: its path from there, and its status.

    Other files are counted in `others` by suffix, hidden images under `HIDDEN`; hidden folders are
    not entered.  Links are followed, but no folder is entered twice; links come after all real
    folders, so that the real path of a folder is the one that counts.
    The status is None if it cannot be read: reading the file will say why.

    Raises:
        DataError: a folder cannot be listed.
    """
    real, linked = [""], list[str]()
    seen: set[tuple[int, int]] = set()
    suffixes = formats.suffixes()
    while real or linked:
        folder = real.pop() if real else linked.pop()
        where = root / folder
        try:
            status = os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(where) as listing:
                # sorted, so that of two links to one folder the same one is entered every time
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            raise DataError(
                f"{where}: the folder cannot be listed: {error.strerror or error}",
                "Check its permissions.",
            ) from None
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            suffix = os.path.splitext(child.name)[1].lower()
            if child.name.startswith("."):
                others[HIDDEN] += suffix in suffixes and child.is_file()
            elif child.name == MAC_METADATA:
                continue
            elif child.is_dir(follow_symlinks=False):
                real.append(path)
            elif _leads_to_folder(child):
                linked.append(path)
            elif suffix in suffixes:
                yield path, _status(child)
            else:
                others[suffix] += _status(child) is not None  # a link may lead nowhere


def _leads_to_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _status(child: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return child.stat()
    except OSError:  # a link that leads nowhere
        return None
