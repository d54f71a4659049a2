"""Letters and digits of EMNIST: idx files, alone or in the one archive they are published in.

The files hold each picture lying on its side, as MATLAB stores it: here it is turned upright.
Source: Cohen et al. 2017, https://arxiv.org/abs/1702.05373.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaecli.data.dataset import Dataset, Images
from vaecli.data.named import idx, zips
from vaecli.errors import DataError
from vaecli.system.callbacks import Report

NAMES = ("emnist-letters", "emnist-balanced")
ARCHIVE = "gzip.zip"
FOLDER = "EMNIST/raw"
LIMIT = 2**30  # bytes of the archive; it has 562 MB, with all six ways to split EMNIST
Bytes = NDArray[np.uint8]


def files_of(name: str) -> tuple[str, ...]:
    """The four idx files of a set, in the order of `idx.FILES`."""
    return tuple(
        f"{name}-{file.replace('t10k', 'test')}" for file in idx.FILES
    )  # emnist-letters-train-images-idx3-ubyte


def parse_archive(name: str, data: bytes, where: str) -> dict[str, Bytes]:
    """The arrays of a set in the archive of all, by the names in `idx.FILES`.

    Raises:
        DataError: it is damaged, or a file is missing.
    """
    names = dict(zip(files_of(name), idx.FILES, strict=True))
    pattern = re.compile(rf"(?:.*/)?({'|'.join(map(re.escape, names))})\.gz")
    arrays = {
        names[match[1]]: idx.parse_idx(content, f"{where}: {match[0]}")
        for match, content in zips.members(data, pattern, idx.LIMIT, where)
    }
    if missing := [file for file, plain in names.items() if plain not in arrays]:
        raise DataError(f"EMNIST: {where}: {', '.join(missing)} not found")
    return arrays


def assemble(name: str, arrays: Mapping[str, Bytes], where: str) -> Dataset:
    """Make a set of its four arrays, with upright pictures.

    Raises:
        DataError: as for `idx.assemble`.
    """
    return _upright(idx.assemble(name, arrays, where))


def read_folder(name: str, folder: Path, report: Report) -> Dataset | None:
    """Read a set from its idx files in a folder, gzipped or not; None when they are not there."""
    found = idx.read_folder(name, folder, report, files_of(name))
    return None if found is None else _upright(found)


def _upright(dataset: Dataset) -> Dataset:
    def turned(images: Images) -> Images:
        assert isinstance(images.pixels, np.ndarray)
        return replace(images, pixels=np.ascontiguousarray(images.pixels.swapaxes(2, 3)))

    return replace(dataset, train=turned(dataset.train), test=turned(dataset.test))
