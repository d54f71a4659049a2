"""Prepares the user's own images, a folder or an array file, once; later runs reuse them."""

from __future__ import annotations

import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from vaecli.data import levels, splits_and_classes
from vaecli.data.dataset import Dataset, count_shared, shared_note
from vaecli.data.origin import Options, Origin
from vaecli.data.own import (
    archive_members,
    arrays,
    both_sides,
    fast_decode,
    folder,
    hub_data,
    listing,
    parquet,
    sources,
    store,
)
from vaecli.data.own.folder import Entry
from vaecli.data.own.sources import Preparation
from vaecli.data.reading import Reading
from vaecli.data.splits_and_classes import Account, Split, Values
from vaecli.errors import DataError, UsageError, as_options
from vaecli.system import files
from vaecli.system.callbacks import Report, no_report
from vaecli.system.size_limits import MAX_CLASS_NAMES_BYTES

Source = sources.FolderSource | sources.ArraySource

BAD_SHARE = 0.1
"""Refuse a set with a larger share of unreadable images, even with --skip-bad."""
NAMED_BAD = 10
MUCH_CUT = 0.25
"""Add a note if cropping drops more than this share of a typical picture."""
WINDOW_SHARE = 4
"""A shuffle window uses a quarter of the image memory."""


def name_of(location: Path | str) -> str:
    """The name of a set made from `location`: its last part, in safe characters."""
    if isinstance(location, str):
        base = hub_data.name_of(location)
    else:
        suffix = archive_members.suffix_of(location)
        base = arrays.stem_of(Path(location.name[: -len(suffix)] if suffix else location.name))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.")[:40] or "images"


def is_own(path: Path) -> bool:
    """Whether a path holds the user's own images: a folder, an archive or an array file."""
    if path.is_dir():
        return True
    packed = bool(archive_members.suffix_of(path)) or path.name.lower().endswith(parquet.SUFFIX)
    return path.exists() and (packed or arrays.is_arrays(path))


def load(
    location: Path | str,
    options: Options,
    reading: Reading,
    preparation: Preparation | None = None,
) -> Dataset:
    """The images at `location`, from the cache if they were prepared before.

    Args:
        location: a folder, an archive, an array or Parquet file, or an address on the Hub.
        options: size, channels and the like, as the user asked.
        reading: where prepared images are kept, how much of them in memory, whom to tell.
        preparation: the shape and so on of a model; None for a shape that suits the images.

    Raises:
        UsageError: `options` are wrong or do not apply.
        DataError: there are no images, or they cannot be read.
        EnvironmentFailure: the cache cannot be written.
    """
    if problems := list(options.problems()):
        raise UsageError(as_options(problems))
    if isinstance(location, Path):
        location = Path(os.path.abspath(location))
    source = _source(location, options, reading, preparation)
    whole = preparation is not None and preparation.whole
    if not whole and {entry.split for entry in source.entries} <= {"test", "validation"}:
        raise DataError(
            f"--data {location}: it has a test and a validation split, and no images to train on",
            "Give one of them as --data, or name the folder or array of training images train.",
        )
    slot, key = _slot_and_key(source, location, reading.folder)
    with store.write_errors("prepared images", slot):
        contents, dataset = _prepared(slot, key, name_of(location), reading, source)
    _refuse_bad(location, contents, options.skip_bad, reading.report)
    levels.refuse(contents.levels, f"--data {location}", black_too=preparation is None)
    origin = Origin(
        kind=source.kind,
        location=os.fspath(location),
        options=options,
        files=source.listed,
        skipped=len(contents.bad),
        window=_window(contents, reading.memory_limit),
        levels=contents.levels,
    )
    dataset = dataset.with_origin(origin, _account(source.account, contents, options, dataset))
    return dataset if whole else both_sides.filled(dataset, reading.report)


def _source(
    location: Path | str,
    options: Options,
    reading: Reading,
    preparation: Preparation | None,
) -> Source:
    found = _parquet_files(location, reading)
    if found is not None:
        return sources.from_parquet(location, found, options, reading, preparation)
    assert isinstance(location, Path)
    if options.image_column is not None or options.label_column is not None:
        raise UsageError(
            f"--data {location}: --image-column and --label-column only work on Parquet files",
            "Leave these options out.",
        )
    if location.is_dir():
        return sources.FolderSource(location, options, preparation, reading.progress)
    if archive_members.suffix_of(location):
        return sources.from_archive(location, options, reading, preparation)
    file = arrays.open_arrays(location, reading.memory_limit)
    return sources.ArraySource(location, file, options, preparation)


def _parquet_files(location: Path | str, reading: Reading) -> hub_data.Fetched | None:
    """The Parquet files at `location`: those of a folder only if it holds no picture files."""
    if isinstance(location, str):
        return hub_data.fetch(location, reading)
    if not location.is_dir():
        single = location.name.lower().endswith(parquet.SUFFIX)
        return hub_data.Fetched({location.name: location}, None) if single else None
    if next(listing.walk(location, Counter()), None) is not None:
        return None
    found = sorted(path for path in location.rglob(f"*{parquet.SUFFIX}") if path.is_file())
    names = {path.relative_to(location).as_posix(): path for path in found}
    return hub_data.Fetched(names, None) if names else None


def _slot_and_key(source: Source, location: Path | str, data_dir: Path) -> tuple[Path, str]:
    """The cache folder of this location and these options, and the key of its present content."""
    settings = {**asdict(source.options), "skip_bad": None}
    settings["version"] = fast_decode.VERSION, splits_and_classes.VERSION
    settings["preparation"] = None if source.preparation is None else asdict(source.preparation)
    identities = [(entry.identity, entry.label, entry.split) for entry in source.entries]
    place = store.key_of(os.fspath(location), settings)[:12]
    slot = data_dir / "vaecli" / "own" / f"{name_of(location)}-{place}"
    files_and_rows = [(entry.path, entry.size, entry.time) for entry in source.entries]
    return slot, store.key_of(files_and_rows, identities, settings)


def _account(
    account: Account, contents: store.Contents, options: Options, dataset: Dataset
) -> Account:
    """The account of the listing, completed after the images were prepared."""
    origins = dict(account.sources) or {
        "train": "what is not held out",
        "test": f"{options.test_fraction:g} of all, held out by a hash of the path",
    }
    left_out = dict(account.left_out)
    if bad := len(contents.bad):
        left_out[f"image{'s' * (bad != 1)} that cannot be read"] = bad
    counts: dict[Split, int] = {"test": contents.n_test, "validation": contents.n_validation}
    shared = [
        note
        for (split, count), shared in zip(counts.items(), contents.shared, strict=True)
        for note in shared_note(shared, count, split)
    ]
    notes = [*account.notes, *_notes(contents), *shared]
    if dataset.train.classes and not dataset.class_names:
        notes.append(
            f"the names of its {len(dataset.train.classes):,} classes take more than"
            f" {MAX_CLASS_NAMES_BYTES:,} bytes: the run stores none of them, and classes of"
            " other data are numbered independently"
        )
    return replace(
        account,
        sources=origins,
        left_out=left_out,
        notes=tuple(notes),
        values=tuple(
            Values(found.samples, found.lowest, found.highest, *found.range)
            for found in contents.levels
        ),
    )


def _notes(contents: store.Contents) -> Iterator[str]:
    """Notes for the user, the same whether the set was prepared now or earlier."""
    for found in contents.levels:
        yield from found.notes()
    _, _, height, width = contents.shape
    if contents.cut > MUCH_CUT:
        yield (
            f"cropping to {height}x{width} drops {100 * contents.cut:.0f} % of a typical picture:"
            " --fit pad or --fit stretch keeps all of it, --image-size HxW chooses another shape"
        )
    if contents.animated:
        yield f"the first frame of each of {contents.animated:,} animations is taken"
    files_of = {folder.file_of(path) for path in contents.paths}
    if len(files_of) < len(contents.paths):
        held_out = {folder.file_of(path) for path in contents.paths[: contents.n_test]}
        both = "" if len(files_of) > 1 or not held_out else "; the last ones are held out"
        yield (
            f"{len(contents.paths):,} images in {len(files_of):,}"
            f" file{'s' * (len(files_of) != 1)}: each page of a TIFF is one{both}"
        )


def _window(contents: store.Contents, memory: int) -> int:
    """Size of the shuffle window in images; 0 shuffles all, if they fit in memory."""
    size = math.prod(contents.shape[1:])
    return 0 if contents.shape[0] * size <= memory else max(1, memory // WINDOW_SHARE // size)


def _prepared(
    slot: Path,
    key: str,
    name: str,
    reading: Reading,
    source: Source,
) -> tuple[store.Contents, Dataset]:
    """The stored images of `key`, prepared first if there are none."""
    if found := _stored(slot, key, name, reading):
        return found
    files.make_folder(slot)
    with store.turn(slot, reading.report):
        unchecked = replace(reading, report=no_report, checked=False)
        found = _stored(slot, key, name, unchecked)  # by the process we waited for
        if not found:
            _make(slot, key, source, reading.memory_limit)
            found = store.read(slot, key, name, reading.memory_limit)
            assert found is not None
    return found


def _stored(
    slot: Path, key: str, name: str, reading: Reading
) -> tuple[store.Contents, Dataset] | None:
    try:
        return store.read(slot, key, name, reading.memory_limit, reading.checked)
    except DataError as error:
        reading.report(f"{error.message}; preparing the images again")
        return None


def _make(slot: Path, key: str, source: Source, memory: int) -> None:
    """Prepare the images and commit them."""
    order, n_test, n_validation = source.images(), 0, 0
    preparation, known_classes = source.preparation, tuple[str, ...]()
    if preparation is None or not preparation.whole:
        order, n_test, n_validation = folder.split_order(order, source.options.test_fraction)
    if preparation is not None:
        known_classes = preparation.classes
        name = preparation.class_name
        order = [replace(entry, label=name(entry.label)) for entry in order]
    first_validation = len(order) - n_validation
    bad = source.write(order, store.raw_path(slot, key))
    kept = [entry for place, entry in enumerate(order) if place not in bad]
    names = sorted({entry.label for entry in order if entry.label is not None})
    classes = splits_and_classes.number_classes(names, known_classes)
    n_test -= sum(place < n_test for place in bad)
    n_validation -= sum(place >= first_validation for place in bad)
    end = len(kept) - n_validation
    training = source.hashes[n_test:end]
    store.commit(
        slot,
        store.Contents(
            key=key,
            shape=(len(kept), *source.shape),
            n_test=n_test,
            n_validation=n_validation,
            paths=tuple(entry.path for entry in kept),
            labels=_labels(kept, classes),
            classes=classes,
            shared=(
                count_shared(source.hashes[:n_test], training),
                count_shared(source.hashes[end:], training),
            ),
            bad=tuple((order[place].path, why) for place, why in sorted(bad.items())),
            total=len(order),
            levels=tuple(source.seen.levels),
            cut=statistics.median(source.seen.cut) if source.seen.cut else 0.0,
            animated=source.seen.animated,
        ),
        memory,
    )


def _labels(entries: list[Entry], classes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The label of each image; None if no image has a class."""
    if all(entry.label is None for entry in entries):
        return None
    return tuple(
        splits_and_classes.UNKNOWN if entry.label is None else classes[entry.label]
        for entry in entries
    )


def _refuse_bad(location: Path | str, contents: store.Contents, skip: bool, report: Report) -> None:
    """DataError if images cannot be read, unless they are few and `skip` is set."""
    bad = contents.bad
    if not bad:
        return
    count = f"{len(bad):,} of {contents.total:,} images cannot be read"
    some = "; ".join(f"{path}: {why}" for path, why in bad[:NAMED_BAD])
    more = f"; and {len(bad) - NAMED_BAD:,} more" if len(bad) > NAMED_BAD else ""
    if len(bad) > BAD_SHARE * contents.total:
        hint = "Repair or remove them: --skip-bad does not leave out this many."
        raise DataError(f"--data {location}: {count}: {some}{more}", hint)
    if not skip:
        hint = "Repair or remove them, or leave them out with --skip-bad."
        raise DataError(f"--data {location}: {count}: {some}{more}", hint)
    report(f"{count} and were left out: {some}{more}")
