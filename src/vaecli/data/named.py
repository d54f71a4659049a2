"""MNIST and its relatives: found on disk, or downloaded once from torchvision's mirrors.

torchvision tells only where the files are and what their MD5 must be.  It is imported for a
download and never again: the download leaves the four `.gz` files in torchvision's layout
(`DATA_DIR/MNIST/raw/`), from which a damaged cache is made anew without network, and our own
cache beside them, which carries a SHA-256 and reads twice as fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from torch import Tensor

from vaecli import files
from vaecli.data import cache, fetch, idx
from vaecli.data.dataset import Dataset
from vaecli.errors import BusyError, DataError, EnvironmentFailure

Report = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]

_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
NAMES = tuple(_CLASSES)
# torchvision's first mirrors, repeated because the probe must not wait for its import
PROBES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "kmnist": "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
}
LOCK_WAIT = 900.0  # seconds to wait for another process that downloads the same set


@dataclass(frozen=True)
class Sources:
    """Where a set is downloaded from.

    Attributes:
        mirrors: base addresses, tried in this order.
        md5: MD5 of the `.gz` of each of `idx.FILES`.
        timeout: seconds a server may be silent; three times as long before its first byte.
    """

    mirrors: Sequence[str]
    md5: Mapping[str, str]
    timeout: float = 10.0


def _ignore(_: str) -> None: ...


# ------------------------------------------------------------------ sets on disk


def load(
    name: str,
    data_dir: Path,
    *,
    allow_download: bool,
    progress: Progress | None = None,
    report: Report = _ignore,
    sources: Sources | None = None,
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
    return found or download(name, data_dir, progress=progress, report=report, sources=sources)


def find(name: str, data_dir: Path, *, report: Report = _ignore) -> Dataset | None:
    """Read the set `name` from our cache or from idx files, without network and torchvision.

    A damaged cache is made anew when sound idx files are there.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of `--data-dir`; its `MNIST` and `MNIST/raw` do as well.
        report: told of every damaged file.

    Returns:
        Pixels (N, 1, 28, 28) and labels (N,), both uint8, or None.
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
        dataset = idx.read_folder(name, folder, report)
        if dataset is not None:
            if rebuild:
                _keep(path, dataset, report)
            return dataset
    return None


def _raw_folders(name: str, data_dir: Path) -> Iterator[Path]:
    """Where idx files may lie, first where a download puts them.

    All sets use the same file names, so the name of the folder must tell them apart.
    """
    yield data_dir / _CLASSES[name] / "raw"
    parts = data_dir.absolute().parts
    if parts[-1:] == (_CLASSES[name],):
        yield data_dir / "raw"
    if parts[-2:] == (_CLASSES[name], "raw"):
        yield data_dir


def _keep(path: Path, dataset: Dataset, report: Report) -> None:
    try:
        cache.write_cache(path, dataset)
    except OSError as error:
        report(f"data cache: {path}: not written: {error.strerror or error}")


def offline_recipe(name: str, data_dir: Path) -> str:
    """How to bring the set by hand, as one sentence."""
    *most, last = idx.FILES
    folder = next(_raw_folders(name, data_dir))
    return f"Put {', '.join(most)} and {last} (each .gz or not) into {folder}."


def _advice(name: str, data_dir: Path) -> str:
    return (
        f"{offline_recipe(name, data_dir)} "
        "Or name the folder that has them with --data-dir, or use --data digits."
    )


# ---------------------------------------------------------------------- download


def reachable(name: str, timeout: float = 5.0, *, mirror: str | None = None) -> bool:
    """Whether the first mirror of `name` sends gzip data within `timeout` seconds in all."""
    address = _address(mirror or PROBES[name], idx.FILES[1])
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
    report: Report = _ignore,
    sources: Sources | None = None,
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
        sources: where from; None asks torchvision.

    Raises:
        EnvironmentFailure: no mirror gave a file, torchvision does not load, the disk refused.
    """
    path = cache.cache_path(name, data_dir)
    raw = next(_raw_folders(name, data_dir))
    try:
        files.make_folder(path.parent)
        files.make_folder(raw)
        with _turn(name, path.with_name("lock"), report):
            dataset = find(name, data_dir)
            if dataset is None:
                # left by a killed process; in these two folders only the holder writes
                files.remove_leftovers(path.parent)
                files.remove_leftovers(raw)
                sources = sources or torchvision_sources(name)
                dataset = _fetch_all(name, data_dir, sources, progress)
                _keep(path, dataset, report)
            return dataset
    except OSError as error:
        raise EnvironmentFailure(
            f"{name}: {error.filename or data_dir}: {error.strerror or error}",
            "Make room, or choose a folder that can be written with --data-dir.",
        ) from None


@contextlib.contextmanager
def _turn(name: str, path: Path, report: Report) -> Iterator[None]:
    """Hold the lock `path`, after waiting for the process that holds it."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count():
            try:
                stack.enter_context(files.lock(path, what=f"the download of {name}"))
                break
            except BusyError as busy:
                if time.monotonic() - start > LOCK_WAIT:
                    raise EnvironmentFailure(
                        f"{busy.message}: {path}: it does not end",
                        "End that process, or choose another folder with --data-dir.",
                    ) from None
                if attempt == 0:
                    report(f"{busy.message}; waiting for it")
                time.sleep(0.1)
        yield


def torchvision_sources(name: str) -> Sources:
    """Mirrors and MD5 sums of `name`, from the only import of torchvision.

    Raises:
        EnvironmentFailure: torchvision is missing, or from another build than torch.
    """
    try:
        from torchvision import datasets

        known = getattr(datasets, _CLASSES[name])
        md5 = dict(known.resources)
        return Sources(tuple(known.mirrors), {file: md5[f"{file}.gz"] for file in idx.FILES})
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


def _fetch_all(name: str, data_dir: Path, sources: Sources, progress: Progress | None) -> Dataset:
    folder = next(_raw_folders(name, data_dir))
    mirrors, tensors = list(sources.mirrors), {}
    for file in idx.FILES:
        path = folder / f"{file}.gz"
        tensor = _present(path, sources.md5[file])
        if tensor is None:
            try:
                data, tensor = _fetch(file, mirrors, sources, progress)
            except LookupError as error:
                why = f"{name}: {file}.gz: no mirror gave it ({error})"
                raise EnvironmentFailure(why, _advice(name, data_dir)) from None
            files.atomic_write(path, data)
        tensors[file] = tensor
    return idx.assemble(name, tensors, str(folder))


def _present(path: Path, md5: str) -> Tensor | None:
    with contextlib.suppress(OSError, ValueError, DataError):
        return _checked(files.read_capped(path, fetch.SIZE_LIMIT), md5)
    return None


def _fetch(
    file: str, mirrors: list[str], sources: Sources, progress: Progress | None
) -> tuple[bytes, Tensor]:
    """Ask one mirror after the other for sound bytes and the tensor in them.

    One that fails goes to the end of `mirrors`: a silent one costs its timeout once.

    Raises:
        LookupError: why each of them failed.
    """
    failures: list[str] = []
    for mirror in tuple(mirrors):
        try:
            data = fetch.receive(_address(mirror, file), sources.timeout, progress)
            return data, _checked(data, sources.md5[file])
        except (*fetch.ERRORS, DataError) as error:
            failures.append(f"{urllib.parse.urlsplit(mirror).netloc or mirror}: {fetch.why(error)}")
            mirrors.append(mirrors.pop(0))
    raise LookupError("; ".join(failures))


def _checked(data: bytes, md5: str) -> Tensor:
    """The tensor in the bytes of a `.gz` file.

    Raises:
        ValueError: their MD5 is another.
        DataError: they are no idx file.
    """
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"its MD5 is wrong ({len(data):,} bytes)")
    return idx.parse_idx(data, "download")


def _address(mirror: str, file: str) -> str:
    return f"{mirror.rstrip('/')}/{file}.gz"
