"""The two kinds of the user's images, folders and array files: their entries and pixels."""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from vaecli.data import levels
from vaecli.data.dataset import image_hashes
from vaecli.data.levels import FULL, Levels, Range, Ranges, SampleType
from vaecli.data.origin import Options
from vaecli.data.own import archives, decode_threads, folder, store
from vaecli.data.own.array_pixels import ArrayFile
from vaecli.data.own.fast_decode import Decoder, Seen, ShapeRule
from vaecli.data.own.folder import Entry
from vaecli.data.own.hub_data import Fetched
from vaecli.data.own.parquet import Listing, ParquetSet, open_parquet
from vaecli.data.picture_fit import WHITE, Fitting
from vaecli.data.reading import Reading
from vaecli.errors import DataError, UsageError
from vaecli.system import files
from vaecli.system.callbacks import Progress
from vaecli.system.size_limits import MAX_PIXELS


@dataclass(frozen=True)
class Preparation:
    """How images are brought to a given model's shape.

    Attributes:
        image_shape: channels, height, width.
        fitting: crop, polarity and the like.
        ranges: values that mean black and white, by sample type; the set decides for other types.
        whole: keep all images together, instead of splitting them.
        classes: names of the model's classes, in order of their labels.
        numbered: whether a class may also be called by its label, as in published sets.
    """

    image_shape: tuple[int, int, int]
    fitting: Fitting = field(default_factory=Fitting)
    ranges: Ranges = field(default_factory=dict)
    whole: bool = False
    classes: tuple[str, ...] = ()
    numbered: bool = False

    def class_name(self, label: str | None) -> str | None:
        """The model's name of the class called `label`."""
        names = self.classes if self.numbered else ()
        number = int(label) if label is not None and re.fullmatch(r"\d{1,9}", label) else len(names)
        return names[number] if number < len(names) else label


@dataclass
class FolderSource:
    """Entries of a folder, and their pixels."""

    location: Path
    options: Options
    preparation: Preparation | None
    progress: Progress
    archive: Path | None = None
    unpacked: archives.Unpacked | None = None
    where: str = ""
    kind: ClassVar[Literal["folder"]] = "folder"

    def __post_init__(self) -> None:
        fixed = self.preparation
        found = self._find(fixed.classes if fixed else ())
        self.entries, self.account = found.entries, found.account
        self.rule = ShapeRule(self.options.size, self.options.channels)
        if fixed is not None:
            self.rule = ShapeRule(fixed.image_shape[1:], fixed.image_shape[0])
        self.fitting = Fitting(fit=self.options.fit) if fixed is None else fixed.fitting
        self.seen, self.hashes = Seen(), array("q")
        if fixed is not None and fixed.whole:  # so that the first few are a fair sample
            self.entries.sort(key=lambda entry: entry.share)

    def _find(self, known_classes: Sequence[str]) -> folder.Found:
        if self.unpacked is None:
            return folder.list_entries(self.location, known_classes)
        others, labels = self.unpacked.others, self.unpacked.labels
        found = folder.list_entries(
            self.location, known_classes, archive=self.archive, left_out=others
        )
        named = [
            replace(entry, label=labels.get(archives.sample_key(entry.path)))
            for entry in found.entries
        ]
        return replace(found, entries=named) if any(entry.label for entry in named) else found

    def _opened(self, slot: Path) -> AbstractContextManager[Callable[[str], Path | bytes]]:
        """The file of an entry's path; `slot` is where temporary files may be."""
        return contextlib.nullcontext(self.location.joinpath)

    @property
    def listed(self) -> Listing:
        """Path, bytes and modification time of each file."""
        return tuple((entry.path, entry.size, entry.time) for entry in self.entries)

    def images(self) -> list[Entry]:
        """One entry for each image: pages of a TIFF are images of their own."""
        return folder.with_pages(self.location, self.entries)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.rule.shape

    def write(self, order: list[Entry], path: Path) -> dict[int, str]:
        """Write the pixels of `order`; returns the images that cannot be read: place and reason."""
        with self._opened(path.parent) as content:
            return self._write(order, path, content)

    def _write(
        self, order: list[Entry], path: Path, content: Callable[[str], Path | bytes]
    ) -> dict[int, str]:
        first = self._see_one(order, content)
        known = {} if self.preparation is None else self.preparation.ranges
        ranges = {**FULL, **levels.asked(self.options.max_value), **known}
        while True:
            bad, self.seen, self.hashes = dict[int, str](), Seen(), array("q")
            if ranges["8-bit"] == FULL["8-bit"]:
                self.seen.levels += first
            try:
                with files.atomic_stream(path) as write:
                    for decoded in decode_threads.decode_all(
                        self.location,
                        content,
                        order,
                        self.rule,
                        self.fitting,
                        ranges,
                        progress=self._tell,
                    ):
                        bad |= decoded.bad
                        self.seen.add(decoded.seen)
                        self.hashes.extend(decoded.hashes)
                        write(decoded.pixels.data.cast("B") if decoded.pixels.size else b"")
                    where = self.where or self.location
                    decided = _decide(where, self.seen.levels, self.options, known)
                    if any(found.range != decided[found.samples] for found in self.seen.levels):
                        ranges = {**ranges, **decided}
                        raise decode_threads.StartAgainError
                return bad
            except decode_threads.StartAgainError:
                continue

    def _see_one(self, order: list[Entry], content: Callable[[str], Path | bytes]) -> list[Levels]:
        """Read the first image for its shape; returns its levels if it has 8 bits and is bright.

        After a bright 8-bit image, the values of others are not examined before resizing.
        """
        decoder = Decoder(self.rule.shape, self.rule, self.fitting, FULL)
        for entry in order[:100]:
            seen = Seen()
            with contextlib.suppress(DataError):
                decoder.read(content(entry.stack or entry.path), entry.path, seen)
                bright = [f for f in seen.levels if f.samples == "8-bit" and not f.dark]
                self.rule.bright = bool(bright)
                return [replace(found, values=0) for found in bright]
        return []

    def _tell(self, done: int, total: int) -> None:
        self.progress("preparing images", done, total)


@dataclass
class ParquetSource(FolderSource):
    """The rows of Parquet files, and the pixels of the image files in them."""

    parquet: ParquetSet = field(kw_only=True)
    kind: ClassVar[Literal["array"]] = "array"  # type: ignore[assignment]

    def _find(self, known_classes: Sequence[str]) -> folder.Found:
        return folder.Found(self.parquet.entries, self.parquet.account)

    def _opened(self, slot: Path) -> AbstractContextManager[Callable[[str], Path | bytes]]:
        return self.parquet.images(slot / f"{files.TEMPORARY_PREFIX}{os.getpid()}-rows")

    @property
    def listed(self) -> Listing:
        """Name, bytes and modification time of each file."""
        return self.parquet.listed

    def images(self) -> list[Entry]:
        """One entry for each row."""
        return self.entries


def from_parquet(
    location: Path | str,
    found: Fetched,
    options: Options,
    reading: Reading,
    preparation: Preparation | None,
) -> ParquetSource:
    """The rows of Parquet files at `location`."""
    rows = open_parquet(
        str(location),
        found.files,
        options.image_column,
        options.label_column,
        splits=found.splits,
        local=isinstance(location, Path),
    )
    return ParquetSource(
        Path(location), options, preparation, reading.progress, parquet=rows, where=str(location)
    )


def from_archive(
    archive: Path,
    options: Options,
    reading: Reading,
    preparation: Preparation | None,
) -> FolderSource:
    """The folder of the cache that an archive was unpacked into."""
    with store.write_errors(f"images of {archive.name}", reading.folder):
        found = archives.unpack(archive, reading)
    return FolderSource(found.folder, options, preparation, reading.progress, archive, found)


@dataclass
class ArraySource:
    """Entries of an array file, and their pixels."""

    location: Path
    file: ArrayFile
    options: Options
    preparation: Preparation | None
    kind: ClassVar[Literal["array"]] = "array"

    def __post_init__(self) -> None:
        self.entries = self.file.entries
        self.account = self.file.account
        self.seen, self.hashes = Seen(), array("q")
        channels, height, width = self.file.shape
        options = self.options
        if options.size not in (None, (height, width)) or options.channels not in (None, channels):
            raise UsageError(
                f"--data {self.location}: its images are {channels}x{height}x{width}:"
                " --image-size and --channels only work on folders",
                "Leave these options out, or resize the array first.",
            )
        if height * width * channels > MAX_PIXELS:
            raise DataError(
                f"--data {self.location}: its images have more than {MAX_PIXELS:,} values"
            )

    @property
    def listed(self) -> Listing:
        """What the file is called, its bytes and modification time."""
        return tuple((entry.path, entry.size, entry.time) for entry in self.entries[:1])

    def images(self) -> list[Entry]:
        """One entry for each image."""
        return self.entries

    def write(self, order: list[Entry], path: Path) -> dict[int, str]:
        """Write the pixels of `order`."""
        known = {} if self.preparation is None else self.preparation.ranges
        wanted = self.options.channels
        if self.preparation is not None:
            wanted = self.preparation.image_shape[0]
        scan = self.file.scan()
        ranges = _decide(self.location, scan.levels, self.options, known)
        channels, height, width = self.file.shape
        self.shape = (channels if wanted == channels or scan.coloured else 1, height, width)
        ground = WHITE
        if self.preparation is not None and self.shape[0] == 1:
            ground = self.preparation.fitting.border
        with files.atomic_stream(path) as write:
            for pixels, read in self.file.pixels(order, ranges, scan.opacity, ground):
                self.seen.add(Seen([read]))
                kept = pixels[:, : self.shape[0]]
                self.hashes.extend(image_hashes(kept))
                write(kept.tobytes())
        return {}


def _decide(
    location: Path | str, all_levels: Sequence[Levels], options: Options, known: Ranges
) -> dict[SampleType, Range]:
    """Decide what counts as black and white in each sample type of a set."""
    try:
        decided = levels.decide(all_levels, options.max_value, known)
    except ValueError as error:
        raise DataError(
            f"--data {location}: {error}",
            "Scale the values, or say what counts as white with --max-value.",
        ) from None
    value = options.max_value
    tops = [FULL[samples][1] for samples in decided if samples in FULL]
    if not isinstance(value, str) and decided and len(tops) == len(decided) and value > max(tops):
        raise UsageError(
            f"--max-value {value:g}: the samples of {location} go up to {max(tops):g} at most",
            "Give a smaller value, or leave the option out.",
        )
    return decided
