"""Memory-mapped pixels: the file stays on disk, and only the parts in use are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vaecli.noise import LevelNoise

Bytes = NDArray[np.uint8]

PIECE = 64
"""Images read before the memory of their pages is given back; the system maps neighbours too."""


class _Stretch(NamedTuple):
    """Neighbours in the file.

    Attributes:
        pixels: (n, C, H, W) uint8, a view of the mapping.
        first: place in its split of the first one.
        levels: of static binarization, addressed by that place; or None.
    """

    pixels: Bytes
    first: int
    levels: LevelNoise | None

    def read(self, places: NDArray[np.int64]) -> Bytes:
        """A copy of the images at `places`, (b, C, H, W)."""
        pixels = self.pixels[places]
        if self.levels is None:
            return pixels
        import torch

        levels = self.levels.at(torch.from_numpy(places + self.first)).numpy()
        return (levels < pixels).astype(np.uint8) * np.uint8(255)


class Mapped:
    """N images in a mapped file; indexing reads a copy and keeps nothing else in memory.

    Takes the place of an array (N, C, H, W) where that is indexed by a slice or by places.

    Args:
        stretches: what it consists of, one after the other; at least one.
        unmap: gives the memory of the pages read so far back.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, stretches: tuple[_Stretch, ...], unmap: Callable[[], None]) -> None:
        self._stretches = stretches
        self._unmap = unmap
        self._count = sum(len(part.pixels) for part in stretches)
        self.shape = (self._count, *stretches[0].pixels.shape[1:])

    @classmethod
    def of(cls, pixels: Bytes, unmap: Callable[[], None]) -> Mapped:
        """All images of a mapping: (N, C, H, W) uint8."""
        return cls((_Stretch(pixels, 0, None),), unmap)

    def __len__(self) -> int:
        """Number of images N."""
        return self._count

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Bytes:
        """The images of a slice or at places (n,) int64, as (n, C, H, W)."""
        if isinstance(chosen, slice):
            return self[np.arange(*chosen.indices(len(self)))]
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for first in range(0, len(chosen), PIECE):
            piece, into = chosen[first : first + PIECE], found[first : first + PIECE]
            for start, part in self._starts():
                inside = (piece >= start) & (piece < start + len(part.pixels))
                into[inside] = part.read(piece[inside] - start)
            self._unmap()
        return found

    def part(self, chosen: slice) -> Mapped:
        """The images of a slice without a step, still on the disk."""
        first, last, _ = chosen.indices(len(self))
        parts = []
        for start, part in self._starts():
            low = min(max(first - start, 0), len(part.pixels))
            pixels = part.pixels[low : max(last - start, low)]
            parts.append(part._replace(pixels=pixels, first=part.first + low))
        return Mapped(tuple(parts), self._unmap)

    def joined(self, other: Mapped) -> Mapped:
        """These images and then those of `other`, of the same file."""
        return Mapped(self._stretches + other._stretches, self._unmap)

    def binarized(self, levels: LevelNoise) -> Mapped:
        """The same in black and white, drawn for the place an image has here."""
        parts = (part._replace(first=start, levels=levels) for start, part in self._starts())
        return Mapped(tuple(parts), self._unmap)

    def _starts(self) -> Iterator[tuple[int, _Stretch]]:
        start = 0
        for part in self._stretches:
            yield start, part
            start += len(part.pixels)
