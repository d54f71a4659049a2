"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people.

The PNG files of 105x105, black on white, become 28x28 grey levels, bright on dark as MNIST's are,
each the mean of its area.  The 30 alphabets of the background set are trained on, the other 20 are
the test set.  Source: Lake et al. 2015, https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecli.data.dataset import Dataset, Images
from vaecli.data.named import zips
from vaecli.errors import DataError

NAME = "omniglot"
FILES = ("images_background.zip", "images_evaluation.zip")
FOLDER = "omniglot-py"
LIMIT = 64 * 1024**2  # bytes of an archive; the larger has 9.5 MB
SIDE = 28
_DRAWN = (105, 105)
_PNG = re.compile(r"(?:.*/)?([^/]+/character\d+)/[^/]+\.png")
_PNG_LIMIT = 64 * 1024  # bytes; they have some 200


class Drawings(NamedTuple):
    """Pictures (N, 28, 28) uint8 in the order of their names, and the character of each."""

    pixels: NDArray[np.uint8]
    characters: list[str]


def parse_archive(data: bytes, where: str) -> Drawings:
    """The pictures of one archive.

    Raises:
        DataError: it is damaged, or holds other pictures.
    """
    pixels, characters = [], []
    for match, content in zips.members(data, _PNG, _PNG_LIMIT, where):
        pixels.append(_small(content, f"{where}: {match[0]}"))
        characters.append(match[1])
    if not pixels:
        raise DataError(f"Omniglot: {where}: it holds no pictures of characters")
    return Drawings(np.stack(pixels), characters)


def assemble(name: str, drawings: Mapping[str, Drawings], where: str) -> Dataset:
    """The set of both archives; a character's number is its place in the order of all names."""
    numbers: dict[str, int] = {}
    for character in sorted({c for file in FILES for c in drawings[file].characters}):
        numbers[character] = len(numbers)
    train, test = (
        Images(
            drawings[file].pixels[:, None],
            np.array([numbers[character] for character in drawings[file].characters], np.int64),
        )
        for file in FILES
    )
    return Dataset(name, train, test)


def _small(png: bytes, where: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                if image.size != _DRAWN:  # before anything is decoded
                    raise ValueError(f"it is {image.width}x{image.height}, not 105x105")
                grey = image.convert("L")
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        raise DataError(f"Omniglot: {where}: {error}") from None
    mean = _SHARES @ (255.0 - np.asarray(grey)) @ _SHARES.T
    return np.rint(mean).astype(np.uint8)


def _shares() -> NDArray[np.float64]:
    """How much of each small row is of each drawn row, (28, 105); rows add up to 1."""
    edges = np.linspace(0, _DRAWN[1], SIDE + 1)[:, None]
    rows = np.arange(_DRAWN[1])
    overlap = np.minimum(edges[1:], rows + 1) - np.maximum(edges[:-1], rows)
    shares: NDArray[np.float64] = overlap.clip(0) * SIDE / _DRAWN[1]
    return shares


_SHARES = _shares()
