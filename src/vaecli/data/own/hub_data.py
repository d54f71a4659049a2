"""Data sets of the Hugging Face Hub: `hf://datasets/OWNER/NAME[/CONFIG][@REVISION]`.

Only Parquet files are read, those of the set or the copies that the Hub makes of it; no code of a
set is ever run.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaecli.data.own.parquet import SUFFIX
from vaecli.data.reading import Reading
from vaecli.errors import DataError
from vaecli.system import extras, hub

SCHEME = f"{hub.SCHEME}datasets/"
_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>\w[\w.-]*/(?P<name>\w[\w.-]*))(/(?P<config>\w[\w.+-]*))?"
    r"(@(?P<revision>\w[\w./-]*))?"
)
_CARD = "README.md"
_TIMEOUT = 10.0
"""Seconds for the list of files."""
_CONVERTED = "refs/convert/parquet"
"""The branch where the Hub keeps Parquet copies of sets in other formats."""


@dataclass(frozen=True)
class Fetched:
    """Parquet files of a set: where they are, and the split of each if the set says it."""

    files: dict[str, Path]
    splits: dict[str, str] | None


def is_address(name: str) -> bool:
    """Whether `name` means a data set on the Hub."""
    return name.startswith(SCHEME)


def name_of(address: str) -> str:
    """The name of the set, with that of its configuration: `cifar10-plain_text`."""
    match = _match(address)
    return "-".join(filter(None, [match["name"], match["config"]]))


def fetch(address: str, reading: Reading) -> Fetched:
    """Download a set's Parquet files, or take them from the local cache of huggingface_hub.

    Raises:
        DataError: the address is malformed, the Hub has no such set, or it has no Parquet files.
        EnvironmentFailure: huggingface_hub is not installed, or the Hub cannot be reached.
    """
    match = _match(address)
    extras.require("hub", f"--data {address}")
    repository = _Repository(address, match["repo"], match["revision"], reading)
    names = repository.names()
    if not any(name.endswith(SUFFIX) for name in names) and match["revision"] is None:
        repository = _Repository(address, match["repo"], _CONVERTED, reading)
        with suppress(DataError):
            names = repository.names()
    card = repository.card() if _CARD in names else {}
    chosen = _chosen(sorted(names), _configurations(card), match["config"], address)
    found = {}
    for done, name in enumerate(chosen, 1):
        found[name] = repository.file(name)
        reading.progress(f"downloading {match['name']}", done, len(chosen))
    return Fetched(found, None if None in chosen.values() else chosen)  # type: ignore[arg-type]


def _match(address: str) -> re.Match[str]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise DataError(
            f"--data {address}: it is not the address of a data set",
            "Write hf://datasets/OWNER/NAME or hf://datasets/OWNER/NAME/CONFIG.",
        )
    return match


@dataclass(frozen=True)
class _Repository:
    """One revision of a repository."""

    address: str
    name: str
    revision: str | None
    reading: Reading

    def names(self) -> list[str]:
        """The paths of its files; of those in the cache where the Hub cannot be reached."""
        from huggingface_hub import HfApi, errors, snapshot_download

        with hub.explained(f"--data {self.address}", DataError, download=self.reading.download):
            if self.reading.download:
                try:
                    about = HfApi().dataset_info(
                        self.name, revision=self.revision, timeout=_TIMEOUT
                    )
                    return [file.rfilename for file in about.siblings or ()]
                except Exception as error:
                    if isinstance(error, errors.HfHubHTTPError) or not hub.is_unreachable(error):
                        raise
            folder = Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    repo_type="dataset",
                    local_files_only=True,
                )
            )
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]

    def file(self, path: str) -> Path:
        """One of its files, downloaded unless it is in the cache."""
        from huggingface_hub import hf_hub_download

        with hub.explained(f"--data {self.address}", DataError, download=self.reading.download):
            return Path(
                hf_hub_download(
                    self.name,
                    path,
                    revision=self.revision,
                    repo_type="dataset",
                    local_files_only=not self.reading.download,
                    tqdm_class=hub.no_bar(),
                )
            )

    def card(self) -> Any:
        """The front matter of its card; empty if there is none that can be read."""
        from huggingface_hub import metadata_load

        path = self.file(_CARD)
        try:
            return metadata_load(path) or {}
        except Exception:  # whatever the YAML of a stranger makes its reader raise
            return {}


def _configurations(card: Any) -> dict[str, list[tuple[str, list[str]]]]:
    """The patterns of the files of each split, by configuration, as the card names them."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    entries = card.get("configs") if isinstance(card, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("config_name"), str):
            found[entry["config_name"]] = list(_patterns(entry.get("data_files")))
    return {name: patterns for name, patterns in found.items() if patterns}


def _patterns(data_files: Any) -> Iterator[tuple[str, list[str]]]:
    """(split, patterns) from `data_files` of a card: a list of `split` and `path`."""
    for part in data_files if isinstance(data_files, list) else ():
        if isinstance(part, dict) and isinstance(part.get("split"), str):
            path = part.get("path")
            yield part["split"], [each for each in _listed(path) if isinstance(each, str)]


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _chosen(
    names: Sequence[str],
    configurations: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
    asked: str | None,
    address: str,
) -> dict[str, str | None]:
    """The Parquet files of a configuration, with the split of each where the card says it."""
    names = [name for name in names if name.endswith(SUFFIX)]
    if not names:
        raise DataError(
            f"--data {address}: it has no Parquet files",
            "vaecli runs no code of a data set; name a set that is kept as Parquet.",
        )
    if configurations:
        config = _one_of(list(configurations), asked, address)
        chosen: dict[str, str | None] = {
            name: split
            for split, patterns in configurations[config]
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        }
        if not chosen:
            raise DataError(f"--data {address}: its configuration {config} names no Parquet files")
        return chosen
    folders = sorted({name.split("/")[0] for name in names if "/" in name} - {"data"})
    if asked is None and len(folders) < 2:
        return dict.fromkeys(names)
    config = _one_of(folders, asked, address)
    return dict.fromkeys(name for name in names if name.startswith(f"{config}/"))


def _one_of(known: Sequence[str], asked: str | None, address: str) -> str:
    """The configuration asked for, else the only one or the one called default."""
    config = asked
    if asked is None and ("default" in known or len(known) == 1):
        config = "default" if "default" in known else known[0]
    if config is None or config not in known:
        what = "it has several configurations" if asked is None else f"it has no {asked}"
        raise DataError(
            f"--data {address}: {what}",
            f"Name one behind the address: {', '.join(known[:20]) or 'it has only one'}.",
        )
    return config
