"""Which files in a folder are images, by name: a walk that links cannot trap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vaecli.errors import DataError
from vaecli.images import SUFFIXES


def find_images(folder: Path) -> list[Path]:
    """Every file under `folder` with the suffix of an image, in the order of their names.

    Links are followed, but no folder is entered twice; hidden files and folders are left out.

    Raises:
        DataError: there is none.
    """
    found = sorted(_walk(folder, set()))
    if not found:
        raise DataError(
            f"no images in {folder}: no file ends in {', '.join(sorted(SUFFIXES))}",
            "Check the folder.",
        )
    return found


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as listing:
        # sorted, so that of two links to one folder the same one is entered every time
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads to itself
            is_folder = False
        if is_folder:
            yield from _walk(Path(entry.path), seen)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield Path(entry.path)
