"""A folder of images: which files are in it, their classes, and who is held out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vaecli.data import layout, listing
from vaecli.data.layout import Account, Split


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that is there.

    Attributes:
        path: relative to the folder, with `/` between parts.
        size: bytes of the file; 0 where it cannot be asked.
        time: modification time in ns.
        label: name of its class, or None.
        split: what the layout says about it; None leaves it to the hash.
    """

    path: str
    size: int = 0
    time: int = 0
    label: str | None = None
    split: Split | None = None

    @property
    def share(self) -> float:
        """Place in [0, 1) that depends on the path alone: small ones are held out."""
        digest = hashlib.sha256(os.fsencode(self.path)).digest()
        return int.from_bytes(digest[:7], "big") / 2**56


@dataclass(frozen=True)
class Found:
    """The images that count, and the account of everything that is there."""

    entries: list[Entry]
    account: Account


def list_entries(
    root: Path,
    known_classes: Collection[str] = (),
    *,
    archive: Path | None = None,
    left_out: Counter[str] | None = None,
) -> Found:
    """The images in a folder and its subfolders, in order of their paths.

    Args:
        root: the folder.
        known_classes: names of a model's classes.
        archive: what was unpacked into the folder.
        left_out: files of the archive that were not unpacked, by suffix.

    Raises:
        DataError: a folder cannot be listed, or there is no image.
    """
    others = Counter(left_out or {})
    files = dict(listing.walk(root, others))
    if not files:
        raise listing.no_images(archive or root, others)
    entries = (
        Entry(path) if status is None else Entry(path, status.st_size, status.st_mtime_ns)
        for path, status in sorted(files.items())
    )
    return arrange(entries, known_classes, layout.others_by_suffix(others))


def arrange(
    entries: Iterable[Entry], known_classes: Collection[str], left_out: Mapping[str, int]
) -> Found:
    """Give entries the split and class that their paths speak of, and drop those outside.

    Args:
        entries: of all images, in order of their paths.
        known_classes: names of a model's classes.
        left_out: what else is there, by reason.
    """
    by_path = {entry.path: entry for entry in entries}
    found = layout.understand(list(by_path), known_classes)
    account = replace(found.account, left_out={**left_out, **found.account.left_out})
    placed = [
        replace(by_path[path], label=place.label, split=place.split)
        for path, place in found.places.items()
    ]
    return Found(placed, account)


def split_order(entries: list[Entry], fraction: float) -> tuple[list[Entry], int, int]:
    """All entries in the order they are stored in, and how many are for test and validation.

    Test images come first, by falling hash, then training images by rising hash: so the smallest
    hash, the one that moves when a side is empty, lies at the border of the two.  Validation
    images come last.
    """
    sides: dict[Split, list[Entry]] = {"test": [], "train": [], "validation": []}
    for entry in sorted(entries, key=lambda entry: (entry.share, entry.path)):
        drawn: Split = "test" if entry.share < fraction else "train"
        sides[entry.split or drawn].append(entry)
    order = [*reversed(sides["test"]), *sides["train"], *sides["validation"]]
    return order, len(sides["test"]), len(sides["validation"])
