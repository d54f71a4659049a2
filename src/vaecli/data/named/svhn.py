"""SVHN, cropped: 32x32 colour digits of house numbers, as files of MATLAB read by scipy.

The digit 0 has label 10 in the files, and 0 here.  Source: Netzer et al. 2011,
http://ufldl.stanford.edu/housenumbers/.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from vaecli.data.dataset import Dataset, Images
from vaecli.errors import DataError
from vaecli.system import extras

NAME = "svhn"
EXTRA = "mat"
FILES = ("train_32x32.mat", "test_32x32.mat")
LIMIT = 512 * 1024**2  # bytes of a file; the larger has 182 MB
SHAPE = (32, 32, 3)
MAX_IMAGES = 200_000  # the larger file has 73,257


def parse(data: bytes, where: str) -> Images:
    """The pictures of one file: pixels (N, 3, 32, 32) and labels (N,), both uint8.

    The shapes in its headers are checked before anything else of it is read.

    Raises:
        DataError: it is damaged, or holds something else.
        EnvironmentFailure: scipy is not installed.
    """
    extras.require(EXTRA, "--data svhn")
    from scipy import io as matlab

    try:
        shapes = {name: shape for name, shape, _ in matlab.whosmat(io.BytesIO(data))}
        count = _count(shapes)
        found = matlab.loadmat(io.BytesIO(data), variable_names=["X", "y"])
        pixels, labels = found["X"], found["y"].ravel()
        if pixels.dtype != np.uint8 or pixels.shape != (*SHAPE, count):
            raise ValueError("X holds no bytes of 32x32 colour pictures")
        if labels.dtype.kind not in "ui" or not ((labels >= 1) & (labels <= 10)).all():
            raise ValueError("y holds other labels than 1 to 10")
    except Exception as error:  # scipy raises whatever a damaged file leads to
        raise DataError(f"SVHN: {where}: {error}") from None
    upright = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    return Images(upright, (labels % 10).astype(np.uint8))


def assemble(name: str, parts: Mapping[str, Images], where: str) -> Dataset:
    """The set of both files."""
    train, test = (parts[file] for file in FILES)
    return Dataset(name, train, test)


def _count(shapes: Mapping[str, tuple[Any, ...]]) -> int:
    """How many pictures the headers declare.

    Raises:
        ValueError: not pictures with labels, or too many.
    """
    shape, labels = shapes.get("X", ()), shapes.get("y", ())
    if len(shape) != 4 or shape[:3] != SHAPE or labels not in ((shape[3], 1), (1, shape[3])):
        raise ValueError(f"it declares X {shape} and y {labels}, not 32x32 pictures with labels")
    if not 1 <= shape[3] <= MAX_IMAGES:
        raise ValueError(f"it declares {shape[3]:,} pictures, more than {MAX_IMAGES:,}")
    return int(shape[3])
