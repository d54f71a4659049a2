"""A folder of images: which files are in it, their classes, and who is held out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vaecli.data import listing

Split = Literal["train", "test"]
TEST_FOLDERS = ("test", "val")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that is there.

    Attributes:
        path: relative to the folder, with `/` between parts.
        size: bytes of the file; 0 where it cannot be asked.
        time: modification time in ns.
        label: name of its class, or None.
        split: what the folder says about it; None leaves it to the hash.
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


def list_entries(root: Path) -> list[Entry]:
    """The images in a folder and its subfolders, in order of their paths.

    With `train/` and `test/` (or `val/`) only the images in these two count.

    Raises:
        DataError: a folder cannot be listed, or there is no image.
    """
    found = dict(listing.walk(root))
    paths = sorted(found)
    top = {path.split("/", 1)[0] for path in paths if "/" in path}
    held_out = next((name for name in TEST_FOLDERS if name in top), None)
    splits: dict[str, Split] = {}
    if "train" in top and held_out is not None:
        splits = {"train": "train", held_out: "test"}
        paths = [path for path in paths if path.split("/", 1)[0] in splits]
    if not paths:
        raise listing.no_images(root)
    labels = _classes(paths, depth=1 if splits else 0)
    return [
        _entry(path, found[path], label, splits.get(path.split("/", 1)[0]))
        for path, label in zip(paths, labels, strict=True)
    ]


def _entry(
    path: str, status: os.stat_result | None, label: str | None, split: Split | None
) -> Entry:
    if status is None:
        return Entry(path, label=label, split=split)
    return Entry(path, status.st_size, status.st_mtime_ns, label, split)


def _classes(paths: list[str], depth: int) -> list[str | None]:
    """The subfolder at `depth` each image lies in; None for all unless every one lies in one."""
    parents = [path.split("/")[depth:-1] for path in paths]
    names = [parts[0] if parts else None for parts in parents]
    return names if None not in names and len(set(names)) > 1 else [None] * len(paths)


def split_order(entries: list[Entry], fraction: float) -> tuple[list[Entry], int]:
    """All entries in the order they are stored in, and how many of them are held out.

    Held-out images come first, by falling hash, then the others by rising hash: so the smallest
    hash, the one that moves when a side is empty, lies at the border of the two.
    """
    held_out, kept = list[Entry](), list[Entry]()
    for share, path, entry in sorted((entry.share, entry.path, entry) for entry in entries):
        del path  # only there to order equal hashes
        test = entry.split == "test" if entry.split else share < fraction
        (held_out if test else kept).append(entry)
    return [*reversed(held_out), *kept], len(held_out)
