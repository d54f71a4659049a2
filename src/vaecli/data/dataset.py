"""What every source of images becomes: one uint8 tensor per split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from vaecli.noise import STATIC_SEED, LevelNoise, permutation

_HELD_OUT_SEED = 1


@dataclass(frozen=True)
class Images:
    """A set of images in memory.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels: (N,) uint8 or int64 class numbers, or None.
    """

    pixels: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        """Number of images N."""
        return self.pixels.shape[0]

    def first(self, count: int | None) -> Images:
        """The first `count` images, all of them for None."""
        labels = None if self.labels is None else self.labels[:count]
        return Images(self.pixels[:count], labels)

    def take(self, places: Tensor) -> Images:
        """The images at `places`, (n,) int64."""
        return Images(self.pixels[places], None if self.labels is None else self.labels[places])

    def split(self, count: int) -> tuple[Images, Images]:
        """The set in two parts, `count` images and the others, each in its order.

        Which image goes where depends on the number of images alone, on no seed.
        """
        order = permutation(len(self), seed=_HELD_OUT_SEED, epoch=0)
        return self.take(order[:count].sort().values), self.take(order[count:].sort().values)


@dataclass(frozen=True)
class Dataset:
    """A named set with its two splits; `name` is never a path."""

    name: str
    train: Images
    test: Images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def fingerprint(self) -> str:
        """SHA-256 over shapes, pixels and labels of both splits."""
        digest = hashlib.sha256()
        for images in (self.train, self.test):
            for tensor in (images.pixels, images.labels):
                if tensor is not None:
                    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.flatten().numpy().data)
        return digest.hexdigest()

    def border(self) -> int:
        """Median grey level (0-255) along the border of the first 1,000 training images."""
        pixels = self.train.pixels[:1000]
        edges = (pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1])
        return int(torch.cat([edge.flatten() for edge in edges]).median())


def static_binarized(dataset: Dataset) -> Dataset:
    """The set in black and white, drawn once: the same for every run and seed.

    The draw of an image depends on its place in its split.
    """
    shape = dataset.image_shape

    def draw(images: Images, split: str) -> Images:
        levels = LevelNoise(shape, seed=STATIC_SEED, purpose=f"static {split}")
        return Images(levels.binarize(images.pixels, 0), images.labels)

    return Dataset(dataset.name, draw(dataset.train, "train"), draw(dataset.test, "test"))


def as_float(pixels: Tensor) -> Tensor:
    """Pixels uint8 0..255 as float32 in [0, 1], same shape."""
    return pixels.to(torch.float32).div_(255)
