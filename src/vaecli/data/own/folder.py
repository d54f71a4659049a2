"""The images of a folder: their classes, splits, and which are held out for testing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vaecli.data import image_file, splits_and_classes
from vaecli.data.own import listing
from vaecli.data.splits_and_classes import Account, Place, Split
from vaecli.errors import DataError
from vaecli.system import files


@dataclass(frozen=True, slots=True)
class Entry:
    """One image, before it is decoded.

    Attributes:
        path: relative to the folder, with `/` between parts; of one page of several, with its
            number: `stack.tif[17]`.
        size: bytes of the file; 0 if unknown.
        time: modification time in ns.
        identity: changes if the file is replaced, see `files.identity_of`.
        label: name of its class, or None.
        split: the split it lies in; None to draw one by hash.
        page: number of the picture, if its file holds several.
    """

    path: str
    size: int = 0
    time: int = 0
    label: str | None = None
    split: Split | None = None
    page: int | None = None
    identity: str = ""

    @property
    def stack(self) -> str | None:
        """The file of which this is one page of several."""
        return None if self.page is None else file_of(self.path)

    @property
    def share(self) -> float:
        """A number in [0, 1), the hash of the file's path; images with small ones are held out."""
        digest = hashlib.sha256(os.fsencode(self.stack or self.path)).digest()
        return int.from_bytes(digest[:7], "big") / 2**56


@dataclass(frozen=True)
class Found:
    """The images that are used, and the account of everything that is there."""

    entries: list[Entry]
    account: Account


def list_entries(
    root: Path,
    known_classes: Collection[str] = (),
    *,
    archive: Path | None = None,
    left_out: Counter[str] | None = None,
) -> Found:
    """The images in a folder and its subfolders, in order of their paths, with class and split.

    Args:
        root: the folder.
        known_classes: names of a model's classes.
        archive: the archive that was unpacked into the folder, if any.
        left_out: files of the archive that were not unpacked, by suffix.

    Raises:
        DataError: a folder cannot be listed, or there is no image.
    """
    others = Counter(left_out or {})
    images = dict(listing.walk(root, others))
    if not images:
        raise listing.no_images(archive or root, others)
    found = splits_and_classes.understand(sorted(images), known_classes)
    left_out_by_reason = {**splits_and_classes.others_by_suffix(others), **found.account.left_out}
    return Found(
        [_entry(root, path, images[path], place) for path, place in found.places.items()],
        replace(found.account, left_out=left_out_by_reason),
    )


def _entry(root: Path, path: str, status: os.stat_result | None, place: Place) -> Entry:
    entry = Entry(path, label=place.label, split=place.split)
    if status is None:
        return entry
    identity = files.identity_of(root / path, status)
    return replace(entry, size=status.st_size, time=status.st_mtime_ns, identity=identity)


_PAGE = re.compile(r"(?P<file>.*\.tiff?)\[\d+\]", re.DOTALL | re.IGNORECASE)


def file_of(path: str) -> str:
    """The path of the file an image lies in: `stack.tif` of `stack.tif[17]`."""
    page = _PAGE.fullmatch(path)
    return path if page is None else page["file"]


def with_pages(root: Path, entries: list[Entry]) -> list[Entry]:
    """The entries with the pages of TIFF stacks as images of their own, one after the other."""
    return [page for entry in entries for page in _pages(root, entry)]


def _pages(root: Path, entry: Entry) -> Iterator[Entry]:
    pages = [0]
    if entry.path.lower().endswith((".tif", ".tiff")):
        with contextlib.suppress(DataError):  # reading the image will tell why
            pages = image_file.tiff_pages(root / entry.path)
    if len(pages) == 1:
        yield entry
        return
    for page in pages:
        yield replace(entry, path=f"{entry.path}[{page}]", page=page)


def _hash_order(entry: Entry) -> tuple[float, str, int]:
    return entry.share, entry.stack or entry.path, entry.page or 0


def split_order(entries: list[Entry], fraction: float) -> tuple[list[Entry], int, int]:
    """All entries in the order they are stored in, and how many are for test and validation.

    Test images come first, by falling hash, then training images by rising hash: so the smallest
    hash, the one that moves when a side is empty, lies at the border of the two.  Validation
    images come last.  All pages of a file have its hash; of a single file, the last pages are
    held out.
    """
    only = entries[0].stack
    if only is not None and all(entry.stack == only for entry in entries):
        n_test = min(max(1, round(fraction * len(entries))), len(entries) - 1)
        return [*entries[-n_test:], *entries[:-n_test]], n_test, 0
    sides: dict[Split, list[Entry]] = {"test": [], "train": [], "validation": []}
    for entry in sorted(entries, key=_hash_order):
        drawn: Split = "test" if entry.share < fraction else "train"
        sides[entry.split or drawn].append(entry)
    order = [*reversed(sides["test"]), *sides["train"], *sides["validation"]]
    return order, len(sides["test"]), len(sides["validation"])
