"""Decodes the user's image files in parallel, in order and a batch at a time.

In threads, not processes: Pillow releases the GIL while it decodes and resizes, and threads need
no second import of torch, no `__main__` guard in the caller's script and no copies.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaecli.data import image_file, levels
from vaecli.data.dataset import image_hashes
from vaecli.data.levels import FULL, Levels, Ranges
from vaecli.data.own.fast_decode import Decoder, Pixels, Seen, ShapeRule
from vaecli.data.own.folder import Entry
from vaecli.data.picture_fit import Fitting
from vaecli.errors import DataError
from vaecli.system import threads

_BATCH = 32


@dataclass(frozen=True)
class Decoded:
    """The result of decoding some files.

    Attributes:
        pixels: (n, C, H, W) uint8.
        bad: the reason why a file cannot be read, by place.
        hashes: of the pixels of each image.
        seen: what else was learned from the files.
    """

    pixels: Pixels
    bad: dict[int, str]
    hashes: list[int]
    seen: Seen


class StartAgainError(Exception):
    """An image changed the common shape, or what counts as white: start again."""


def decode_all(
    root: Path,
    content: Callable[[str], Path | bytes],
    entries: Sequence[Entry],
    rule: ShapeRule,
    fitting: Fitting,
    ranges: Ranges = FULL,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Decoded]:
    """Decode files in order, a batch at a time.

    Args:
        root: the folder, for pages of its files.
        content: the file of an entry's path: where it is, or what is in it.
        entries: images in it.
        rule: gives the shape, and learns from the images.
        fitting: how they are brought to it.
        ranges: values that mean black and white.
        progress: called with (done, total).

    Raises:
        StartAgainError: an image changed the shape; discard what came before.
    """
    decoder = Decoder(rule.shape, rule, fitting, ranges)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked by us, and threads share the filters
        batches = [range(i, min(i + _BATCH, len(entries))) for i in range(0, len(entries), _BATCH)]

        def work(places: range) -> Decoded:
            return _decode_batch(root, content, entries, places, decoder)

        for places, decoded in threads.in_order(work, batches):
            if rule.shape != decoder.shape:
                raise StartAgainError
            progress(places.stop, len(entries))
            yield decoded


def _decode_batch(
    root: Path,
    content: Callable[[str], Path | bytes],
    entries: Sequence[Entry],
    places: range,
    decoder: Decoder,
) -> Decoded:
    pixels = np.empty((len(places), *decoder.shape), np.uint8)
    bad: dict[int, str] = {}
    seen = Seen()
    for place, result in _results(root, content, entries, places, decoder, seen):
        if isinstance(result, DataError):
            name = entries[place].path
            bad[place] = result.message.removeprefix(f"cannot read the image: {name}: ")
        else:
            pixels[place - places.start - len(bad)] = result
    if seen.bright:
        together = np.concatenate([image.ravel() for image in seen.bright])
        seen.levels.append(Levels.of("8-bit", together, FULL["8-bit"]))
        seen.bright = []
    seen.levels = levels.joined(seen.levels)
    pixels = pixels[: len(places) - len(bad)]
    return Decoded(pixels, bad, list(image_hashes(pixels)), seen)


def _results(
    root: Path,
    content: Callable[[str], Path | bytes],
    entries: Sequence[Entry],
    places: range,
    decoder: Decoder,
    seen: Seen,
) -> Iterator[tuple[int, Pixels | DataError]]:
    """Pixels of each place, or why there are none; pages of one file are read together."""
    for stack, group in itertools.groupby(places, lambda place: entries[place].stack):
        together = list(group)
        if stack is not None:
            pages = [(entries[place].page or 0, entries[place].path) for place in together]
            pictures = image_file.read_pages(root / stack, pages, decoder.ranges)
            for place, picture in zip(together, pictures, strict=True):
                if isinstance(picture, DataError):
                    yield place, picture
                else:
                    yield place, decoder.fit(picture, entries[place].path, seen)
            continue
        for place in together:
            name = entries[place].path
            try:
                yield place, decoder.read(content(name), name, seen)
            except DataError as error:
                yield place, error
