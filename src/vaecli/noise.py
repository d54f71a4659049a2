"""Every random draw as a function of (seed, purpose, epoch, chunk): no hidden generator state.

Standard normal noise is drawn in whole chunks of a constant number of rows and sliced, because
drawing 90 rows is not the first 90 of 100.  So the noise of a place depends neither on the
batch size nor on where a run was stopped, nor on how many processes share the work.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

CHUNK_ROWS = 4096


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose, independent of the seeds of all others."""
    text = ":".join(map(str, (seed, purpose, *numbers))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(
    seed: int, purpose: str, *numbers: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator seeded by `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *numbers))


def permutation(count: int, *, seed: int, epoch: int) -> Tensor:
    """The order (count,) int64 in which an epoch visits the images."""
    return torch.randperm(count, generator=generator(seed, "permutation", epoch))


class NormalNoise:
    """Standard normal rows addressed by their place in the visiting order.

    Args:
        width: numbers per row, the latent dimension L.
        seed: the run's seed.
        purpose: what the noise is for; other purposes draw other numbers.
        epoch: training epoch; 0 for noise that must not change from pass to pass.
        device: where to draw; CPU and CUDA generators give different numbers.
    """

    def __init__(
        self,
        width: int,
        *,
        seed: int,
        purpose: str,
        epoch: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._width = width
        self._key = (seed, purpose, epoch)
        self._device = device
        self._chunk = -1
        self._rows = torch.empty(0)

    def rows(self, start: int, stop: int) -> Tensor:
        """The rows of places start..stop-1, as (stop - start, width)."""
        parts = []
        while start < stop:
            chunk, offset = divmod(start, CHUNK_ROWS)
            end = min(stop, (chunk + 1) * CHUNK_ROWS)
            parts.append(self._load(chunk)[offset : offset + end - start])
            start = end
        if not parts:
            return torch.empty(0, self._width, device=self._device)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _load(self, chunk: int) -> Tensor:
        if chunk != self._chunk:
            seed, purpose, epoch = self._key
            source = generator(seed, purpose, epoch, chunk, device=self._device)
            shape = (CHUNK_ROWS, self._width)
            self._rows = torch.randn(shape, generator=source, device=self._device)
            self._chunk = chunk
        return self._rows
