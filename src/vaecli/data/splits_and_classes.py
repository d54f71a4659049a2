"""The split and class of each image, from folder names alone; no file is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vaecli.data import formats

VERSION = 1
"""Of the meaning: raised when the same names would mean something else."""

Split = Literal["train", "test", "validation"]
UNKNOWN = -(2**63)
"""Label of an image without a class; classes that a model does not know count up from here."""

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
}
HIDDEN = "hidden image"
"""Counted in place of a suffix: image files whose name begins with a dot."""
OUTSIDE_SPLITS = "beside the folders of the splits"


@dataclass(frozen=True)
class Values:
    """The range of values of one sample type, and what counts as black and white."""

    samples: str
    lowest: float
    highest: float
    black: float
    white: float


@dataclass(frozen=True)
class Account:
    """How the user's data was read, for the table shown before training.

    Attributes:
        sources: where the images of each split came from, in words.
        left_out: number of files or images left out, by reason.
        notes: choices made without being asked.
        values: ranges of values, one for each sample type.
    """

    sources: Mapping[Split, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    values: tuple[Values, ...] = ()

    @property
    def left_out_texts(self) -> list[str]:
        """`40 .heic files: not a supported format`, and so on."""
        return [f"{count:,} {reason}" for reason, count in self.left_out.items()]

    @property
    def warnings(self) -> list[str]:
        """The notes and what was left out, for output without the table."""
        return [*self.notes, *(f"left out: {text}" for text in self.left_out_texts)]


@dataclass(frozen=True, slots=True)
class Place:
    """The split of an image (None: drawn later) and the name of its class, or None."""

    split: Split | None = None
    label: str | None = None


@dataclass(frozen=True)
class Layout:
    """The place of each image that is used, by path, and the account of the rest."""

    places: Mapping[str, Place]
    account: Account


def number_classes(names: Sequence[str], known: Sequence[str] = ()) -> dict[str, int]:
    """The label of each class: its own value if all names are numbers, else its place in `names`.

    Args:
        names: distinct.
        known: names of a model's classes, in order of their labels: these keep their labels, and
            all others are numbered from UNKNOWN + 1.
    """
    if known:
        unknown = [name for name in names if name not in {*known}]
        return number_classes(known) | {
            name: UNKNOWN + 1 + place for place, name in enumerate(unknown)
        }
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        labels = {name: int(name) for name in names}
        if len({*labels.values()}) == len(names):  # not both "7" and "07"
            return labels
    return {name: place for place, name in enumerate(names)}


def is_known(label: int) -> bool:
    """Whether a label is a class, and one of the model's if there is a model."""
    return label > -(10**18)


def others_by_suffix(suffixes: Mapping[str, int]) -> dict[str, int]:
    """Reasons and counts for files that are not read, from their suffixes."""
    reasons = {}
    for suffix, count in sorted(suffixes.items()):
        why = "its name begins with a dot" if suffix == HIDDEN else "not a supported format"
        if advice := formats.advice(suffix):
            why = f"{why}; {advice.rstrip('.')}"
        if count:
            reasons[f"{suffix or 'suffixless'} file{'s' * (count != 1)}: {why}"] = count
    return reasons


def understand(paths: Sequence[str], known_classes: Collection[str] = ()) -> Layout:
    """Read splits and classes from the names of folders.

    - A folder that only contains another folder is skipped.
    - Folders named train, test, validation or the like are splits: at the top, or inside each
      class.  If there is no test folder, validation takes its place.
    - The next folders are the classes, if there are two or more.

    Args:
        paths: of images, with `/` between parts.
        known_classes: names of a model's classes; such a folder is never skipped.
    """
    parts = [path.split("/") for path in paths]
    depth = 0
    while (only := _only_folder(parts, depth)) is not None and only not in known_classes:
        depth += 1
    notes = []
    root = "".join(f"{name}/" for name in parts[0][:depth]) if parts else ""
    if root:
        notes.append(f"looked through {root}, the only folder")
    level, splits = _find_splits(parts, depth)
    kept = [path for path in parts if not splits or _folder(path, level) in splits]
    class_level = depth
    if splits and level == depth:
        class_level = _look_through_splits(kept, depth, known_classes)
        if class_level > depth + 1:
            notes.append(f"looked through the only folder in each of {_listed(splits, root)}")
    else:
        notes += _split_named_classes(parts, depth, splits)
    labels = _labels(kept, level, class_level, splits, known_classes, notes)
    sources: dict[Split, str] = {}
    for split in dict.fromkeys(splits.values()):
        folders = [name for name, other in splits.items() if other == split]
        sources[split] = _listed(folders, root if level == depth else f"{root}*/")
    left_out = len(parts) - len(kept)
    return Layout(
        {
            "/".join(path): Place(splits.get(_folder(path, level) or ""), label)
            for path, label in zip(kept, labels, strict=True)
        },
        Account(
            sources,
            {f"image{'s' * (left_out != 1)} {OUTSIDE_SPLITS}": left_out} if left_out else {},
            tuple(notes),
        ),
    )


def _folder(path: Sequence[str], depth: int) -> str | None:
    """The folder at `depth` that a file lies in, directly or deeper."""
    return path[depth] if len(path) > depth + 1 else None


def _only_folder(parts: Sequence[Sequence[str]], depth: int) -> str | None:
    """The folder at `depth` in which all images lie, or None."""
    names = {_folder(path, depth) for path in parts}
    return names.pop() if len(names) == 1 else None


def _split_of(name: str) -> tuple[Split | None, tuple[str, ...]]:
    """The split in a folder's name, and the other words in it; digits are ignored.

    >>> _split_of("train2017"), _split_of("test_images"), _split_of("cats")
    (('train', ()), ('test', ('images',)), (None, ('cats',)))
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    words = re.findall(r"[^\W\d_]+", spaced)
    split_words = [word for word in words if _as_split(word)]
    if len(split_words) != 1:
        return None, tuple(words)
    return _as_split(split_words[0]), tuple(word for word in words if word != split_words[0])


def _as_split(word: str) -> Split | None:
    return SPLIT_WORDS.get(word) or SPLIT_WORDS.get(word.removesuffix("s"))  # type: ignore[return-value]


def _splits(names: Collection[str]) -> dict[str, Split]:
    """The split of each folder that is one; none unless there are at least two splits.

    If the names are single words, other folders may lie beside them.  Longer names, such as
    `train_images` and `test_images`, must differ only in that word.
    """
    found = {name: _split_of(name) for name in names}
    plain = {name: split for name, (split, rest) in found.items() if split and not rest}
    others: dict[Split | None, set[tuple[str, ...]]] = {}
    for split, rest in found.values():
        others.setdefault(split, set()).add(rest)
    if len({*plain.values()}) > 1 and ("train" in plain.values() or len(plain) == len(names)):
        splits = plain
    elif (
        "train" in others and None not in others and len(set(map(frozenset, others.values()))) == 1
    ):
        splits = {name: split for name, (split, _) in found.items() if split}
    else:
        return {}
    if len({*splits.values()}) < 2:
        return {}
    if "test" in splits.values():
        return splits
    return {name: "test" if split == "validation" else split for name, split in splits.items()}


def _find_splits(parts: Sequence[Sequence[str]], depth: int) -> tuple[int, dict[str, Split]]:
    """The depth of the folders that are splits, and the split of each; {} if there are none."""
    names = {name for path in parts if (name := _folder(path, depth))}
    if splits := _splits(names):
        return depth, splits
    inner = {_folder(path, depth + 1) for path in parts}
    if None not in inner:
        splits = _splits({name for name in inner if name})
        if len(splits) == len(inner):
            return depth + 1, splits
    return depth, {}


def _look_through_splits(
    parts: Sequence[Sequence[str]], depth: int, known_classes: Collection[str]
) -> int:
    """The depth of the classes inside the splits at `depth`.

    A folder that is alone in its split is skipped if it has the same name in every split, or the
    name of the split (`train/train`).
    """
    level = depth + 1
    while True:
        inner: dict[str, set[str | None]] = {}
        for path in parts:
            inner.setdefault(path[depth], set()).add(_folder(path, level))
        names = {name for names in inner.values() for name in names}
        own = all(names == {split} for split, names in inner.items())
        if None in names or not (own or len(names) == 1) or names & {*known_classes}:
            return level
        level += 1


def _labels(
    parts: Sequence[Sequence[str]],
    level: int,
    class_level: int,
    splits: Mapping[str, Split],
    known_classes: Collection[str],
    notes: list[str],
) -> list[str | None]:
    """The class of each image; if an image lies in no class folder, its split has no classes."""
    names = [_folder(path, class_level) for path in parts]
    groups = [splits.get(_folder(path, level) or "") for path in parts]
    outside = Counter(group for group, name in zip(groups, names, strict=True) if name is None)
    found = {name for name in names if name is not None}
    if len(found) < 2 and not found <= {*known_classes}:
        return [None] * len(parts)
    if found and outside:
        for group, count in outside.items():
            where = f" of the {group} split" if group else ""
            notes.append(
                f"{count:,} image{'s' * (count != 1)}{where} in no class folder: no image"
                f"{where} has a class"
            )
    return [None if group in outside else name for group, name in zip(groups, names, strict=True)]


def _split_named_classes(
    parts: Sequence[Sequence[str]], depth: int, splits: Mapping[str, Split]
) -> Iterator[str]:
    """Notes on folders that are taken as classes although they are named like a split."""
    if splits:
        return
    names = sorted({name for path in parts if (name := _folder(path, depth))})
    for name in names:
        split, rest = _split_of(name)
        if split and not rest and len(names) > 1:
            missing = "train folder" if split != "train" else "test or validation folder"
            yield f"{name}/ is read as a class, since there is no {missing} beside it"


def _listed(folders: Iterable[str], root: str) -> str:
    return ", ".join(f"{root}{name}/" for name in folders)
