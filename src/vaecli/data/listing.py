"""Which files in a folder are images, by name: a walk that links cannot trap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vaecli.errors import DataError
from vaecli.images import SUFFIXES


def find_images(folder: Path) -> list[Path]:
    """Every file under `folder` with the suffix of an image, in the order of their paths.

    Raises:
        DataError: there is none, or a folder cannot be listed.
    """
    found = sorted(folder / path for path, _ in walk(folder))
    if not found:
        raise no_images(folder)
    return found


def no_images(folder: Path) -> DataError:
    """The refusal of a folder without images, with what was looked for."""
    endings = ", ".join(sorted(SUFFIXES))
    return DataError(
        f"no images in {folder}: no file there or in its subfolders ends in {endings}",
        "Check the folder.",
    )


def walk(root: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below `root` with the suffix of an image: its path from there, and its status.

    Hidden files and folders are left out.  Links are followed, but no folder is entered twice;
    links come after all real folders, so that the real path of a folder is the one that counts.
    The status is None where it cannot be asked: reading the file will tell why.

    Raises:
        DataError: a folder cannot be listed.
    """
    real, linked = [""], list[str]()
    seen: set[tuple[int, int]] = set()
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
            if child.name.startswith("."):
                continue
            if child.is_dir(follow_symlinks=False):
                real.append(path)
            elif _leads_to_folder(child):
                linked.append(path)
            elif os.path.splitext(child.name)[1].lower() in SUFFIXES:
                yield path, _status(child)


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
