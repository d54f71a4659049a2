"""Output paths: files the user named are never overwritten, default names get a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vaecli.errors import UsageError
from vaecli.system import files

STDOUT = "-"


def free_name(path: Path, *, folder: bool = False) -> Path:
    """`path`, or the first of `STEM-2.png`, `STEM-3.png`, ... that does not exist.

    A folder's name has no suffix, whatever dots it holds.
    """
    stem, suffix = (path.name, "") if folder else (path.stem, path.suffix)
    number, candidate = 1, path
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = path.with_name(f"{stem}-{number}{suffix}")
    return candidate


def require_new_file(option: str, path: Path, suffix: str, *, force: bool) -> None:
    """As `files.require_new`, for the file of an option that writes one format.

    Raises:
        UsageError: its name does not end in `suffix` either.
    """
    if path.suffix.lower() != suffix:
        raise UsageError(
            f"{option} {path}: its name must end in {suffix}", f"Name a {suffix} file."
        )
    files.require_new([path], force=force)


def require_distinct(paths: Sequence[Path], sources: Sequence[str]) -> None:
    """Refuse two inputs that would write one file.

    Raises:
        UsageError: naming the first such pair.
    """
    targets = [str(path) for path in paths]
    if any(_ignores_case(folder) for folder in {path.parent for path in paths}):
        targets = [target.casefold() for target in targets]
    for target, count in Counter(targets).items():
        if count > 1:
            places = [place for place, other in enumerate(targets) if other == target]
            pair, path = [sources[place] for place in places], paths[places[0]]
            raise UsageError(
                f"{pair[0]} and {pair[1]} would both be written to {path}",
                "Rename one, or reconstruct them into different folders.",
            )


def _ignores_case(folder: Path) -> bool:
    """Whether names that differ only in case are one file there, as on Windows and most Macs."""
    for place in (folder.absolute(), *folder.absolute().parents):
        other = place.with_name(place.name.swapcase()) if place.name else place
        if other != place and place.exists():
            return other.exists() and other.samefile(place)
    return False


def kind(output: str, suffixes: tuple[str, ...]) -> Literal["stdout", "folder", "file"]:
    """What an output name means; a folder is one, ends in a slash, or has no suffix.

    Raises:
        UsageError: it is a file of a suffix that is not among `suffixes`.
    """
    path = Path(output)
    if output == STDOUT:
        return "stdout"
    if path.is_dir() or output.endswith(("/", "\\")) or not (path.suffix or path.exists()):
        return "folder"
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"--output {output}: it is neither a folder nor {' or '.join(suffixes)}",
            "End a folder's name with a slash.",
        )
    return "file"
