"""Finds the published sets on the disk.

Next to the downloaded files, which stay unchanged, is our own cache: it has a SHA-256 and loads
twice as fast.  A damaged cache is rebuilt from the files, without network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vaecli.data.dataset import Dataset
from vaecli.data.named import cache, cifar, emnist, http_download, idx, omniglot, svhn, usps
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.callbacks import Report, no_report

TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_FOLDERS = {
    "mnist": "mnist",
    "fashionmnist": "fashion-mnist",
    "fashion": "fashion-mnist",
    "kmnist": "kmnist",
    "kuzushijimnist": "kmnist",
}
"""The set that the name of a folder means, without case and punctuation."""
_MNIST_TEST_LABELS = "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"
"""SHA-256 of the 10,000 bytes; other sets use the same file names."""
CIFAR10 = cifar.NAME


@dataclass(frozen=True)
class Format:
    """The files of a set, and the functions that read them.

    Attributes:
        files: their names as keys of `Downloads.md5`.
        suffix: added to these names on the server and on the disk.
        limit: largest size of a file in bytes.
        parse: turns (the bytes of a file, where they are from) into its content.
        assemble: turns (name of the set, content of each file, folder) into the set.
        read: turns (name of the set, folder, callback for damage) into the set, or None.
        folder: of the files below the data folder, as a download lays them.
        extra: the extra of vaecli whose packages read them, or None.
    """

    files: Sequence[str]
    suffix: str
    limit: int
    parse: Callable[[bytes, str], Any]
    assemble: Callable[[str, Mapping[str, Any], str], Dataset]
    read: Callable[[str, Path, Report], Dataset | None]
    folder: str = ""
    extra: str | None = None

    def download_name(self, file: str) -> str:
        """The name of a file on the server and on the disk."""
        return f"{file}{self.suffix}"


IDX = Format(
    idx.FILES, ".gz", http_download.SIZE_LIMIT, idx.parse_idx, idx.assemble, idx.read_folder
)
_CIFAR = Format(
    (cifar.ARCHIVE,),
    "",
    cifar.LIMIT,
    cifar.parse_archive,
    lambda name, sets, where: sets[cifar.ARCHIVE],
    lambda name, folder, report: cifar.find(folder, report),
)


def _emnist(name: str) -> Format:
    def assemble(name: str, arrays: Mapping[str, Any], where: str) -> Dataset:
        return emnist.assemble(name, arrays[emnist.ARCHIVE], where)

    def read(name: str, folder: Path, report: Report) -> Dataset | None:
        return emnist.read_folder(name, folder, report) or _read_files(form, name, folder, report)

    parse = partial(emnist.parse_archive, name)
    form = Format((emnist.ARCHIVE,), "", emnist.LIMIT, parse, assemble, read, emnist.FOLDER)
    return form


def _files(
    files: Sequence[str],
    limit: int,
    parse: Callable[[bytes, str], Any],
    assemble: Callable[[str, Mapping[str, Any], str], Dataset],
    **more: str,
) -> Format:
    """A format whose files are on the disk as they are downloaded."""

    def read(name: str, folder: Path, report: Report) -> Dataset | None:
        return _read_files(form, name, folder, report)

    form = Format(files, "", limit, parse, assemble, read, **more)
    return form


FORMATS = {
    **dict.fromkeys(TORCHVISION_CLASSES, IDX),
    CIFAR10: _CIFAR,
    **{name: _emnist(name) for name in emnist.NAMES},
    omniglot.NAME: _files(
        omniglot.FILES,
        omniglot.LIMIT,
        omniglot.parse_archive,
        omniglot.assemble,
        folder=omniglot.FOLDER,
    ),
    usps.NAME: _files(usps.FILES, usps.LIMIT, usps.parse, usps.assemble),
    svhn.NAME: _files(svhn.FILES, svhn.LIMIT, svhn.parse, svhn.assemble, extra=svhn.EXTRA),
}
NAMES = tuple(FORMATS)


def _read_files(form: Format, name: str, folder: Path, report: Report) -> Dataset | None:
    """Read a set from the files of its format in a folder; None when they are not there whole."""
    contents, missing = {}, []
    for file in form.files:
        path = folder / form.download_name(file)
        try:
            contents[file] = form.parse(files.read_capped(path, form.limit), str(path))
        except (FileNotFoundError, NotADirectoryError):
            missing.append(str(path))
        except DataError as error:
            report(error.message)
        except (OSError, ValueError) as error:
            report(f"{name}: {path}: {getattr(error, 'strerror', None) or error}")
    if len(missing) < len(form.files):
        for absent in missing:
            report(f"{name}: {absent}: it is missing, but other files of the set are there")
    if len(contents) < len(form.files):
        return None
    try:
        return form.assemble(name, contents, str(folder))
    except DataError as error:
        report(error.message)
        return None


def find(
    name: str, data_dir: Path, *, guess: bool = False, report: Report = no_report
) -> Dataset | None:
    """Read the set `name` from our cache or from its own files, without network.

    A damaged cache is made anew if intact files are there.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of `--data-dir`, its `MNIST` or `MNIST/raw`, or any folder that holds
            the set's files.
        guess: the user did not name the set; unless the name of the folder does, its files are
            only taken as MNIST if their test labels are MNIST's.
        report: called for every damaged file, and if only `name` says which set the files are.

    Returns:
        Pixels (N, C, H, W) and labels (N,), both uint8, or None.
    """
    path = cache.cache_path(name, data_dir)
    rebuild = False
    try:
        return cache.read_cache(path, name)
    except FileNotFoundError:
        pass
    except DataError as error:
        rebuild = True
        report(error.message)
    except OSError as error:
        report(f"data cache: {path}: {error.strerror or error}")
    for folder in raw_folders(name, data_dir):
        dataset = FORMATS[name].read(name, folder, report)
        if dataset is None or not _belongs(dataset, folder, guess, report):
            continue
        if rebuild:
            write_cache(path, dataset, report)
        return dataset
    return None


def raw_folders(name: str, data_dir: Path) -> Iterator[Path]:
    """Where a set's own files may be, first where a download puts them.

    Sets of idx files use the same file names: a folder named after another set is left out.
    """
    if name not in TORCHVISION_CLASSES:
        yield from dict.fromkeys((data_dir / FORMATS[name].folder, data_dir))
        return
    yield data_dir / TORCHVISION_CLASSES[name] / "raw"
    if data_dir.absolute().name == TORCHVISION_CLASSES[name]:
        yield data_dir / "raw"
    if _set_of(data_dir) in (name, None):
        yield data_dir


def _set_of(folder: Path) -> str | None:
    """The set of idx files that a folder is named after, or None."""
    parts = [part for part in folder.absolute().parts if part.lower() != "raw"]
    word = "".join(filter(str.isalnum, parts[-1].lower())) if parts else ""
    return _FOLDERS.get(word)


def _belongs(dataset: Dataset, folder: Path, guess: bool, report: Report) -> bool:
    """Whether files found in `folder` are those of the set, judged by its name or their labels."""
    if dataset.name not in TORCHVISION_CLASSES or _set_of(folder) == dataset.name:
        return True
    labels = dataset.test.labels
    assert labels is not None
    is_mnist = files.sha256(labels.tobytes()) == _MNIST_TEST_LABELS
    if is_mnist:
        if dataset.name != "mnist":
            report(f"idx files: {folder}: they are those of mnist, not of {dataset.name}")
        return dataset.name == "mnist"
    if guess:
        report(
            f"idx files: {folder}: they are not those of MNIST, and are left alone:"
            " say with --data which set they are"
        )
        return False
    report(f"idx files: {folder}: taken to be those of {dataset.name}, as --data says")
    return True


def write_cache(path: Path, dataset: Dataset, report: Report) -> None:
    """Write the cache; that it cannot be written is reported, no more."""
    try:
        cache.write_cache(path, dataset)
    except OSError as error:
        report(f"data cache: {path}: not written: {error.strerror or error}")
