"""Downloads the published sets if they are not on disk.

The files are kept unchanged, in torchvision's layout (`DATA_DIR/MNIST/raw/`).
"""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from pathlib import Path
from typing import Any

from vaecli.data.dataset import Dataset
from vaecli.data.named import cache, http_download, idx
from vaecli.data.named.mirrors import DOWNLOADS, Downloads
from vaecli.data.named.sets import (
    FORMATS,
    IDX,
    Format,
    find,
    raw_folders,
    write_cache,
)
from vaecli.data.reading import Reading
from vaecli.errors import DataError, EnvironmentFailure
from vaecli.system import extras, files, locks
from vaecli.system.callbacks import Progress

LOCK_WAIT = 900.0  # seconds to wait for another process that downloads the same set


def load(name: str, reading: Reading, downloads: Downloads | None = None) -> Dataset:
    """Find the set `name` in the folder of `reading`, or else download it there.

    Raises:
        EnvironmentFailure: as for `download`; or downloads are off and the set is missing or
            damaged.
    """
    problems: list[str] = []
    data_dir = reading.folder
    found = find(name, data_dir, report=problems.append)
    if found is None and not reading.download:
        why = "; ".join(problems) or "it is not there"
        raise EnvironmentFailure(
            f"{name}: {data_dir}: {why}, and downloads are off", _advice(name, data_dir)
        )
    for problem in problems:
        reading.report(problem)
    return found or download(name, reading, downloads)


def offline_recipe(name: str, data_dir: Path) -> str:
    """A sentence that says which files to put where by hand."""
    folder = next(raw_folders(name, data_dir))
    form = FORMATS[name]
    if form is not IDX:
        addresses = [_address(DOWNLOADS[name].mirrors[0], file) for file in form.files]
        return f"Put {' and '.join(addresses)} into {folder}."
    *most, last = idx.FILES
    return f"Put {', '.join(most)} and {last} (each .gz or not) into {folder}."


def _advice(name: str, data_dir: Path) -> str:
    return (
        f"{offline_recipe(name, data_dir)} "
        "Or name the folder that has them with --data-dir, or use --data digits."
    )


def reachable(name: str, timeout: float = 5.0, *, mirror: str | None = None) -> bool:
    """Whether a mirror of `name` sends gzip data within `timeout` seconds in all."""
    address = _address(mirror or DOWNLOADS[name].mirrors[0], IDX.download_name(idx.FILES[1]))
    try:
        with contextlib.closing(http_download.stream(address, timeout, timeout)) as stream:
            chunk, _ = next(stream, (b"", None))
    except http_download.ERRORS:
        return False
    # the login page of a public network is no gzip data
    return chunk.startswith(b"\x1f\x8b")


def download(name: str, reading: Reading, downloads: Downloads | None = None) -> Dataset:
    """Download the set `name` to the folder of `reading` and write the cache.

    The MD5 and the content of a file are checked before it is written.  A file that is already
    there and passes is not fetched again.  If another process is downloading the set, wait for it
    and use its files.

    Args:
        name: one of `NAMES`.
        reading: the folder; told of the bytes of each file, before waiting, and if the cache cannot
            be written.
        downloads: addresses and MD5 sums; None for those of `mirrors.py`.

    Raises:
        EnvironmentFailure: no mirror gave a file, or a file cannot be written.
    """
    data_dir, report = reading.folder, reading.report
    path = cache.cache_path(name, data_dir)
    raw = next(raw_folders(name, data_dir))
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
                dataset = _fetch_all(name, data_dir, downloads or DOWNLOADS[name], reading.progress)
                write_cache(path, dataset, report)
            return dataset
    except OSError as error:
        raise EnvironmentFailure(
            f"{name}: {error.filename or data_dir}: {error.strerror or error}",
            "Make room, or choose a folder that can be written with --data-dir.",
        ) from None


def _fetch_all(name: str, data_dir: Path, downloads: Downloads, progress: Progress) -> Dataset:
    form, folder = FORMATS[name], next(raw_folders(name, data_dir))
    if form.extra is not None:
        extras.require(form.extra, f"--data {name}")
    mirrors, contents = list(downloads.mirrors), {}
    for file in form.files:
        path = folder / form.download_name(file)
        content = _present(form, path, downloads.md5[file])
        if content is None:
            try:
                data, content = _fetch(form, file, mirrors, downloads, progress)
            except LookupError as error:
                why = f"{name}: {path.name}: no mirror delivered it ({error})"
                raise EnvironmentFailure(why, _advice(name, data_dir)) from None
            files.atomic_write(path, data)
        contents[file] = content
    return form.assemble(name, contents, str(folder))


def _present(form: Format, path: Path, md5: str) -> Any:
    """The content of the file at `path`, or None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, DataError):
        return _checked(form, files.read_capped(path, form.limit), md5)
    return None


def _fetch(
    form: Format, file: str, mirrors: list[str], downloads: Downloads, progress: Progress
) -> tuple[bytes, Any]:
    """Download a file from the first mirror that gives it undamaged: its bytes and its content.

    A mirror that fails goes to the end of `mirrors`, so that its timeout is waited for once.

    Raises:
        LookupError: all mirrors failed; the message says why.
    """
    failures: list[str] = []
    for mirror in tuple(mirrors):
        try:
            address = _address(mirror, form.download_name(file))
            data = http_download.receive(address, downloads.timeout, progress, form.limit)
            return data, _checked(form, data, downloads.md5[file])
        except (*http_download.ERRORS, DataError) as error:
            failures.append(
                f"{urllib.parse.urlsplit(mirror).netloc or mirror}: {http_download.why(error)}"
            )
            mirrors.append(mirrors.pop(0))
    raise LookupError("; ".join(failures))


def _checked(form: Format, data: bytes, md5: str) -> Any:
    """The content of a downloaded file.

    Raises:
        ValueError: its MD5 is wrong.
        DataError: it cannot be parsed.
    """
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"its MD5 is wrong ({len(data):,} bytes)")
    return form.parse(data, "download")


def _address(mirror: str, file: str) -> str:
    return f"{mirror.rstrip('/')}/{file}"
