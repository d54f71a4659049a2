"""Every random draw as a function of (seed, purpose, epoch, chunk): no hidden generator state.

Standard normal noise is drawn in whole chunks of a constant number of rows and sliced, because
drawing 90 rows is not the first 90 of 100.  So the noise of a position depends neither on the
batch size, nor on where a run was stopped, nor on the number of processes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vaecli.philox import derive_seed

CHUNK_ROWS = 4096
WINDOW_BLOCKS = 16
"""Number of blocks of neighbouring images in a window of `permutation`."""
SAMPLE_BLOCK = 128, 8
"""Shape of a block of importance noise: images, samples."""
STATIC_SEED = 20_160_901
"""Seed of static binarization, which --seed does not change."""
_LEVEL_CHUNK = 1 << 20


Device = torch.device | str


def generator(seed: int, purpose: str, *numbers: int, device: Device = "cpu") -> torch.Generator:
    """A fresh generator seeded by `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *numbers))


def permutation(count: int, *, seed: int, epoch: int, window: int = 0) -> Tensor:
    """The order (count,) int64 in which an epoch visits the images.

    Args:
        count: number of images.
        seed: the run's seed.
        epoch: number of the epoch.
        window: 0 shuffles all images together.  Else, for images that are read from a disk:
            blocks of neighbours are put in random order, and every `window` places of the
            result are shuffled among themselves.
    """
    if window == 0:
        return torch.randperm(count, generator=generator(seed, "permutation", epoch))
    size = max(1, window // WINDOW_BLOCKS)
    source = generator(seed, "blocks", epoch)
    blocks = torch.randperm(-(-count // size), generator=source)
    order = (blocks[:, None] * size + torch.arange(size)).flatten()
    order = order[order < count]
    return torch.cat(
        [part[torch.randperm(len(part), generator=source)] for part in order.split(window)]
    )


def _level_rows(shape: tuple[int, int, int]) -> int:
    # memory, not meaning, decides the chunk: its size follows from the shape alone
    return max(1, _LEVEL_CHUNK // math.prod(shape))


def chunks_of_window(window: int, shape: tuple[int, int, int]) -> int:
    """Chunks of `LevelNoise` that the images of one window of `permutation` lie in, at most.

    Args:
        window: as of `permutation`; 0 gives 1, for images that are visited in order.
        shape: channels, height, width.
    """
    size = max(1, window // WINDOW_BLOCKS)
    each = 1 if size == 1 else (size - 2) // _level_rows(shape) + 2
    return max(1, (-(-window // size) + 1) * each)  # a block can lie in two windows


class _Chunks(ABC):
    """Rows in chunks of a constant size, each drawn whole by a generator of its own."""

    def __init__(
        self,
        key: tuple[int, str, int],
        chunk_rows: int,
        row: tuple[int, ...],
        device: Device,
        keep: int = 1,
    ) -> None:
        self._key = key
        self._shape = chunk_rows, *row
        self._device = device
        self._keep = keep
        self._kept: dict[int, Tensor] = {}
        """Chunks by number, the one used last at the end."""

    @abstractmethod
    def _draw(self, source: torch.Generator) -> Tensor:
        """One chunk of shape `self._shape`."""

    def rows(self, start: int, stop: int) -> Tensor:
        """The rows of places start..stop-1, as (stop - start, ...)."""
        parts = []
        while start < stop:
            chunk, offset = divmod(start, self._shape[0])
            end = min(stop, (chunk + 1) * self._shape[0])
            parts.append(self._load(chunk)[offset : offset + end - start])
            start = end
        if not parts:
            return self._load(0)[:0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def at(self, places: Tensor) -> Tensor:
        """The rows of `places` (n,) int64 in any order, as (n, ...)."""
        found = self._load(0).new_empty((len(places), *self._shape[1:]))
        chunks = places // self._shape[0]
        for chunk in chunks.unique().tolist():
            inside = chunks == chunk
            found[inside] = self._load(chunk)[places[inside] % self._shape[0]]
        return found

    def _load(self, chunk: int) -> Tensor:
        rows = self._kept.pop(chunk, None)
        if rows is None:
            while len(self._kept) >= self._keep:
                del self._kept[next(iter(self._kept))]
            seed, purpose, epoch = self._key
            rows = self._draw(generator(seed, purpose, epoch, chunk, device=self._device))
        self._kept[chunk] = rows
        return rows


class NormalNoise(_Chunks):
    """Standard normal rows (L,) addressed by their place in the visiting order.

    Args:
        width: numbers per row, the latent dimension L.
        seed: the run's seed.
        purpose: what the noise is for; other purposes draw other numbers.
        epoch: training epoch; 0 for noise that must not change from pass to pass.
        device: where to draw; CPU and CUDA generators give different numbers.
    """

    def __init__(
        self, width: int, *, seed: int, purpose: str, epoch: int = 0, device: Device = "cpu"
    ) -> None:
        super().__init__((seed, purpose, epoch), CHUNK_ROWS, (width,), device)

    def _draw(self, source: torch.Generator) -> Tensor:
        return torch.randn(self._shape, generator=source, device=self._device)


class SampleNoise:
    """Standard normal noise of K importance samples per image, drawn in blocks of both.

    The first samples of an image do not depend on K.  Args as for `NormalNoise`.
    """

    def __init__(
        self, width: int, *, seed: int, purpose: str, epoch: int = 0, device: Device = "cpu"
    ) -> None:
        self._key = seed, f"{purpose} samples", epoch
        self._shape = *SAMPLE_BLOCK, width
        self._device = device

    def block(self, images: int, samples: int) -> Tensor:
        """Block number (images, samples), of shape (128, 8, L)."""
        source = generator(*self._key, images, samples, device=self._device)
        return torch.randn(self._shape, generator=source, device=self._device)

    def rows(self, start: int, stop: int, count: int) -> Tensor:
        """`count` samples for each of the places start..stop-1, as (stop - start, count, L)."""
        height, width, _ = self._shape
        first, last = start // height, max(start, stop - 1) // height + 1
        bands = [
            torch.cat([self.block(band, k) for k in range(math.ceil(count / width))], 1)
            for band in range(first, last)
        ]
        return torch.cat(bands)[start - first * height : stop - first * height, :count]


class LevelNoise(_Chunks):
    """Rows (C, H, W) of uniform grey levels 0..254, for binarizing: white where level < pixel.

    A pixel x is then white with probability x/255 exactly, 0 never and 255 always.

    Args:
        shape: channels, height, width.
        seed: the run's seed, or `STATIC_SEED`.
        purpose: what the draws are for.
        epoch: training epoch; 0 for draws that must not change from pass to pass.
        device: where to draw.
        keep: chunks that are kept at once, for rows that are not asked for in order.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        seed: int,
        purpose: str,
        epoch: int = 0,
        device: Device = "cpu",
        keep: int = 1,
    ) -> None:
        rows = _level_rows(shape)
        super().__init__((seed, f"{purpose} levels", epoch), rows, shape, device, keep)

    def _draw(self, source: torch.Generator) -> Tensor:
        return torch.randint(
            255, self._shape, dtype=torch.uint8, generator=source, device=self._device
        )

    def binarize(self, pixels: Tensor, start: int) -> Tensor:
        """Pixels (B, C, H, W) uint8 of the places from `start` on as 0 or 255, same shape."""
        levels = self.rows(start, start + len(pixels))
        return (levels < pixels).to(torch.uint8).mul_(255)
