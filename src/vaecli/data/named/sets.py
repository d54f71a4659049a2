"""MNIST, its relatives and CIFAR-10: found on disk, or downloaded once.

For MNIST and its relatives torchvision tells where the files are and what their MD5 must be, no
more.  It is imported for a download and never again: the download leaves the files as they came in
torchvision's layout (`DATA_DIR/MNIST/raw/`), from which a damaged cache is made anew without
network, and our own cache beside them, which carries a SHA-256 and reads twice as fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vaecli.data.dataset import Dataset
from vaecli.data.named import cache, cifar, fetch, idx
from vaecli.errors import DataError, EnvironmentFailure
from vaecli.system import files, locks
from vaecli.system.callbacks import Progress, Report, no_report

_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_FOLDERS = {
    "mnist": "mnist",
    "fashionmnist": "fashion-mnist",
    "fashion": "fashion-mnist",
    "kmnist": "kmnist",
    "kuzushijimnist": "kmnist",
}
"""Which set a folder belongs to that is called so, without case and punctuation."""
_MNIST_TEST_LABELS = "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"
"""SHA-256 of the 10,000 bytes, which tells MNIST from sets that use the same file names."""
CIFAR10 = cifar.NAME
NAMES = (*_CLASSES, CIFAR10)
# mirrors of torchvision's, repeated because the probe must not wait for its import
PROBES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "kmnist": "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
}
LOCK_WAIT = 900.0  # seconds to wait for another process that downloads the same set


@dataclass(frozen=True)
class Downloads:
    """Where a set is downloaded from.

    Attributes:
        mirrors: base addresses, tried in this order.
        md5: MD5 of each file as it is downloaded, by its name without `.gz`.
        timeout: seconds a server may be silent; three times as long before its first byte.
    """

    mirrors: Sequence[str]
    md5: Mapping[str, str]
    timeout: float = 10.0


# the address and MD5 its page gives; torchvision has only the pickled version
CIFAR10_DOWNLOADS = Downloads(
    ("https://www.cs.toronto.edu/~kriz/",), {cifar.ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"}
)


@dataclass(frozen=True)
class Format:
    """How the files of a set are made.

    Attributes:
        files: their names as keys of `Downloads.md5`.
        suffix: what their names end in besides.
        limit: bytes of a download.
        parse: (bytes, where they are from) to what a file holds.
        assemble: (name of the set, what its files hold, where they are) to the set.
        read: (name of the set, folder, whom to tell of damage) to the set, or None.
    """

    files: Sequence[str]
    suffix: str
    limit: int
    parse: Callable[[bytes, str], Any]
    assemble: Callable[[str, Mapping[str, Any], str], Dataset]
    read: Callable[[str, Path, Report], Dataset | None]

    def download_name(self, file: str) -> str:
        """What a file is called on a server and on the disk."""
        return f"{file}{self.suffix}"


_IDX = Format(idx.FILES, ".gz", fetch.SIZE_LIMIT, idx.parse_idx, idx.assemble, idx.read_folder)
_CIFAR = Format(
    (cifar.ARCHIVE,),
    "",
    cifar.LIMIT,
    cifar.parse_archive,
    lambda name, sets, where: sets[cifar.ARCHIVE],
    lambda name, folder, report: cifar.find(folder, report),
)


def _format(name: str) -> Format:
    return _CIFAR if name == CIFAR10 else _IDX


# ------------------------------------------------------------------ sets on disk


def load(
    name: str,
    data_dir: Path,
    *,
    allow_download: bool,
    progress: Progress | None = None,
    report: Report = no_report,
    downloads: Downloads | None = None,
) -> Dataset:
    """Find the set `name` in `data_dir`, or else download it there.

    Raises:
        EnvironmentFailure: as for `download`; with downloads off, that the set is not there,
            naming the files that are damaged.
    """
    problems: list[str] = []
    found = find(name, data_dir, report=problems.append)
    if found is None and not allow_download:
        why = "; ".join(problems) or "it is not there"
        raise EnvironmentFailure(
            f"{name}: {data_dir}: {why}, and downloads are off", _advice(name, data_dir)
        )
    for problem in problems:
        report(problem)
    return found or download(name, data_dir, progress=progress, report=report, downloads=downloads)


def find(
    name: str, data_dir: Path, *, guess: bool = False, report: Report = no_report
) -> Dataset | None:
    """Read the set `name` from our cache or from its own files, without network and torchvision.

    A damaged cache is made anew when sound files are there.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of `--data-dir`; its `MNIST` and `MNIST/raw` do as well, and so does
            any folder that holds the set's files.
        guess: nobody named the set: files in a folder that does not name it either are only taken
            for MNIST when they are.
        report: told of every damaged file, and of files whose set only `name` tells.

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
    for folder in _raw_folders(name, data_dir):
        dataset = _format(name).read(name, folder, report)
        if dataset is None or not _belongs(dataset, folder, guess, report):
            continue
        if rebuild:
            _keep(path, dataset, report)
        return dataset
    return None


def _raw_folders(name: str, data_dir: Path) -> Iterator[Path]:
    """Where a set's own files may lie, first where a download puts them.

    Sets of idx files use the same file names: a folder that is called as another set is left out.
    """
    if name == CIFAR10:
        yield data_dir
        return
    yield data_dir / _CLASSES[name] / "raw"
    if data_dir.absolute().name == _CLASSES[name]:
        yield data_dir / "raw"
    if _set_of(data_dir) in (name, None):
        yield data_dir


def _set_of(folder: Path) -> str | None:
    """The set of idx files that a folder belongs to by its name, or None."""
    parts = [part for part in folder.absolute().parts if part.lower() != "raw"]
    word = "".join(filter(str.isalnum, parts[-1].lower())) if parts else ""
    return _FOLDERS.get(word)


def _belongs(dataset: Dataset, folder: Path, guess: bool, report: Report) -> bool:
    """Whether files found in `folder` are those of the set, as far as can be told."""
    if dataset.name == CIFAR10 or _set_of(folder) == dataset.name:
        return True
    labels = dataset.test.labels
    assert labels is not None
    is_mnist = files.sha256(labels.numpy().tobytes()) == _MNIST_TEST_LABELS
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


def _keep(path: Path, dataset: Dataset, report: Report) -> None:
    try:
        cache.write_cache(path, dataset)
    except OSError as error:
        report(f"data cache: {path}: not written: {error.strerror or error}")


def offline_recipe(name: str, data_dir: Path) -> str:
    """How to bring the set by hand, as one sentence."""
    folder = next(_raw_folders(name, data_dir))
    if name == CIFAR10:
        return f"Put {CIFAR10_DOWNLOADS.mirrors[0]}{cifar.ARCHIVE} into {folder}."
    *most, last = idx.FILES
    return f"Put {', '.join(most)} and {last} (each .gz or not) into {folder}."


def _advice(name: str, data_dir: Path) -> str:
    return (
        f"{offline_recipe(name, data_dir)} "
        "Or name the folder that has them with --data-dir, or use --data digits."
    )


# ---------------------------------------------------------------------- download


def reachable(name: str, timeout: float = 5.0, *, mirror: str | None = None) -> bool:
    """Whether a mirror of `name` sends gzip data within `timeout` seconds in all."""
    address = _address(mirror or PROBES[name], _IDX.download_name(idx.FILES[1]))
    try:
        with contextlib.closing(fetch.stream(address, timeout, timeout)) as stream:
            chunk, _ = next(stream, (b"", None))
    except fetch.ERRORS:
        return False
    # a login page that stands in the way is no gzip data
    return chunk.startswith(b"\x1f\x8b")


def download(
    name: str,
    data_dir: Path,
    *,
    progress: Progress | None = None,
    report: Report = no_report,
    downloads: Downloads | None = None,
) -> Dataset:
    """Download the set `name` to `data_dir` and write the cache.

    A file is checked, its MD5 and its content, before anything of it is written. One that is
    there already and passes is not fetched again. Another process doing the same is waited
    for, and what it fetched is used.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of `--data-dir`.
        progress: called with the file's name, the bytes received and their total if known.
        report: told of a wait, and of a cache that cannot be written.
        downloads: where from; None asks torchvision, except for CIFAR-10.

    Raises:
        EnvironmentFailure: no mirror gave a file, torchvision does not load, the disk refused.
    """
    path = cache.cache_path(name, data_dir)
    raw = next(_raw_folders(name, data_dir))
    try:
        files.make_folder(path.parent)
        files.make_folder(raw)
        lock, what = path.with_name("lock"), f"the download of {name}"
        with locks.hold_when_free(lock, what=what, patience=LOCK_WAIT, report=report):
            dataset = find(name, data_dir)
            if dataset is None:
                # left by a killed process; in these two folders only the holder writes
                files.remove_leftovers(path.parent)
                files.remove_leftovers(raw)
                if downloads is None:
                    downloads = CIFAR10_DOWNLOADS if name == CIFAR10 else torchvision_sources(name)
                dataset = _fetch_all(name, data_dir, downloads, progress)
                _keep(path, dataset, report)
            return dataset
    except OSError as error:
        raise EnvironmentFailure(
            f"{name}: {error.filename or data_dir}: {error.strerror or error}",
            "Make room, or choose a folder that can be written with --data-dir.",
        ) from None


def torchvision_sources(name: str) -> Downloads:
    """Mirrors and MD5 sums of `name`, from the only import of torchvision.

    Raises:
        EnvironmentFailure: torchvision is missing, or from another build than torch.
    """
    try:
        from torchvision import datasets

        known = getattr(datasets, _CLASSES[name])
        md5 = dict(known.resources)
        return Downloads(tuple(known.mirrors), {file: md5[f"{file}.gz"] for file in idx.FILES})
    except (ImportError, OSError, RuntimeError, AttributeError, LookupError) as error:
        why = " ".join(str(error).split())[:200]
        raise EnvironmentFailure(
            f"torchvision: {_version('torchvision')} does not work with"
            f" torch {_version('torch')}: {why}",
            "Install the two anew, from one place: `pipx reinstall vaecli`, `uv tool install"
            " --reinstall vaecli`, or `pip install --force-reinstall torch torchvision`."
            " Only downloads need torchvision; --data digits does not.",
        ) from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _fetch_all(
    name: str, data_dir: Path, downloads: Downloads, progress: Progress | None
) -> Dataset:
    form, folder = _format(name), next(_raw_folders(name, data_dir))
    mirrors, contents = list(downloads.mirrors), {}
    for file in form.files:
        path = folder / form.download_name(file)
        content = _present(form, path, downloads.md5[file])
        if content is None:
            try:
                data, content = _fetch(form, file, mirrors, downloads, progress)
            except LookupError as error:
                why = f"{name}: {path.name}: no mirror gave it ({error})"
                raise EnvironmentFailure(why, _advice(name, data_dir)) from None
            files.atomic_write(path, data)
        contents[file] = content
    return form.assemble(name, contents, str(folder))


def _present(form: Format, path: Path, md5: str) -> Any:
    """What the file at `path` holds, or None without a sound one."""
    with contextlib.suppress(OSError, ValueError, DataError):
        return _checked(form, files.read_capped(path, form.limit), md5)
    return None


def _fetch(
    form: Format, file: str, mirrors: list[str], downloads: Downloads, progress: Progress | None
) -> tuple[bytes, Any]:
    """Ask one mirror after the other for sound bytes and what they hold.

    One that fails goes to the end of `mirrors`: a silent one costs its timeout once.

    Raises:
        LookupError: why each of them failed.
    """
    failures: list[str] = []
    for mirror in tuple(mirrors):
        try:
            address = _address(mirror, form.download_name(file))
            data = fetch.receive(address, downloads.timeout, progress, form.limit)
            return data, _checked(form, data, downloads.md5[file])
        except (*fetch.ERRORS, DataError) as error:
            failures.append(f"{urllib.parse.urlsplit(mirror).netloc or mirror}: {fetch.why(error)}")
            mirrors.append(mirrors.pop(0))
    raise LookupError("; ".join(failures))


def _checked(form: Format, data: bytes, md5: str) -> Any:
    """What the bytes of a downloaded file hold.

    Raises:
        ValueError: their MD5 is another.
        DataError: they are damaged nevertheless.
    """
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"its MD5 is wrong ({len(data):,} bytes)")
    return form.parse(data, "download")


def _address(mirror: str, file: str) -> str:
    return f"{mirror.rstrip('/')}/{file}"
