"""Images of a data set: one uint8 array per split."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaecli.data.mapped import Mapped
from vaecli.data.origin import Origin
from vaecli.data.pixels import Bytes
from vaecli.data.splits_and_classes import Account, Split, Values, is_known
from vaecli.system.size_limits import MAX_CLASS_NAMES_BYTES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vaecli.system.processes import Processes

_HELD_OUT_SEED = 1
_PART = 8 * 2**20  # bytes looked at together in passes over a whole set


@dataclass(frozen=True)
class Images:
    """Images in memory, or in a file that is read in parts.

    Attributes:
        pixels: (N, C, H, W) uint8: an array, or a file; a tensor once they are moved `to` where
            torch computes.
        labels: (N,) uint8 or int64 class numbers, or None.
        paths: where each image came from, relative to its folder, or None.
        classes: names of the classes, by label; a label without one is called by its number.
    """

    pixels: Bytes | Mapped | Tensor
    labels: NDArray[Any] | None = None
    paths: tuple[str, ...] | None = None
    classes: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images N."""
        return self.pixels.shape[0]

    def __getitem__(self, chosen: slice) -> Images:
        """The images of a slice; no pixel is copied."""
        return replace(
            self,
            pixels=_part(self.pixels, chosen),
            labels=None if self.labels is None else self.labels[chosen],
            paths=None if self.paths is None else self.paths[chosen],
        )

    def class_name(self, label: int) -> str:
        """The name of a label's class; empty for an image without a class."""
        return self.classes.get(label, str(label) if is_known(label) else "")

    def first(self, count: int | None) -> Images:
        """The first `count` images, all of them for None."""
        return self[:count]

    def pixels_at(self, places: Tensor) -> Tensor:
        """The pixels of the images at `places` (n,) int64, as (n, C, H, W) uint8."""
        import torch

        if isinstance(self.pixels, torch.Tensor):
            return self.pixels.index_select(0, places)  # a tenth of the time of indexing
        return torch.from_numpy(self.pixels[places.numpy()])

    def take(self, places: NDArray[np.int64]) -> Images:
        """The images at `places`, (n,) int64."""
        return Images(
            self.pixels[places],
            None if self.labels is None else self.labels[places],
            None if self.paths is None else tuple(self.paths[place] for place in places.tolist()),
            self.classes,
        )

    def split(self, count: int) -> tuple[Images, Images]:
        """The set in two parts, `count` images and the others, each in its order.

        Which image goes where depends on the number of images alone, on no seed.
        """
        if self.paths is not None:  # in the order of a hash, and perhaps larger than memory
            return self[:count], self[count:]
        from vaecli.noise import permutation

        order = permutation(len(self), seed=_HELD_OUT_SEED, epoch=0).numpy()
        return self.take(np.sort(order[:count])), self.take(np.sort(order[count:]))

    def spread(self, count: int) -> Images:
        """At most `count` of them, evenly spaced from the first to the last."""
        count = min(count, len(self))
        return self.take(np.linspace(0, len(self) - 1, count).astype(np.int64))

    def to(self, device: torch.device) -> Images:
        """The same with its pixels on `device`, unless it is mapped or too large for its memory."""
        import torch

        from vaecli.system.device import memory_for_images

        if isinstance(self.pixels, Mapped) or self.pixels.nbytes > memory_for_images(device):
            return self
        return replace(self, pixels=torch.as_tensor(self.pixels).to(device))

    def parts(self) -> Iterator[Bytes]:
        """All pixels in order, in parts of bounded size, in the memory of this machine."""
        step = max(1, _PART // max(1, math.prod(self.pixels.shape[1:])))
        for start in range(0, len(self), step):
            part = self.pixels[start : start + step]
            yield part if isinstance(part, np.ndarray) else part.cpu().numpy()

    def mean_image(self, processes: Processes | None = None) -> NDArray[np.float64]:
        """Mean over the images in [0, 1], exact: (C, H, W) float64.

        Args:
            processes: those that hold the same set, of which each reads a share; None for one.
        """
        total = np.zeros(self.pixels.shape[1:], np.int64)
        mine = self if processes is None else self[processes.share(len(self))]
        for part in mine.parts():
            total += part.sum(0, dtype=np.int64)
        if processes is not None:
            import torch

            processes.add(torch.from_numpy(total))
        return total / (255 * len(self))


def join(parts: Sequence[Images]) -> Images:
    """Several sets as one; of sets in memory a copy, unless at most one has images."""
    filled = [images for images in parts if len(images)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    labels = [images.labels for images in filled if images.labels is not None]
    paths = [images.paths for images in filled if images.paths is not None]
    return Images(
        _joined([images.pixels for images in filled]),
        np.concatenate(labels) if len(labels) == len(filled) else None,
        tuple(path for part in paths for path in part) if len(paths) == len(filled) else None,
        filled[0].classes,
    )


def _part(pixels: Bytes | Mapped | Tensor, chosen: slice) -> Bytes | Mapped | Tensor:
    return pixels.part(chosen) if isinstance(pixels, Mapped) else pixels[chosen]


def _joined(parts: Sequence[Bytes | Mapped | Tensor]) -> Bytes | Mapped:
    mapped = [pixels for pixels in parts if isinstance(pixels, Mapped)]
    if mapped:  # the splits of one file
        return functools.reduce(Mapped.joined, mapped)
    return np.concatenate([np.asarray(pixels) for pixels in parts])


@dataclass(frozen=True)
class Dataset:
    """A named set with its splits.

    Attributes:
        name: of the set, never a path.
        train: images to train on.
        test: held-out images.
        validation: images of a validation split, which `--patience` watches; or None.
        origin: where a user's own images lie; None for a named set.
        account: how the user's data was read.
    """

    name: str
    train: Images
    test: Images
    validation: Images | None = None
    origin: Origin | None = None
    account: Account = field(default_factory=Account)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def limited(self, limit: int | None) -> Dataset:
        """The set with at most `limit` images to train on."""
        return self if limit is None else replace(self, train=self.train.first(limit))

    def with_origin(self, origin: Origin, account: Account) -> Dataset:
        """The same images with an origin; a fingerprint already computed is kept."""
        copy = replace(self, origin=origin, account=account)
        vars(copy).update({k: v for k, v in vars(self).items() if k == "_fingerprint"})
        return copy

    def known_as(self, fingerprint: str) -> Dataset:
        """The same images with a fingerprint that another process has computed."""
        copy = replace(self)
        vars(copy)["_fingerprint"] = fingerprint
        return copy

    def fingerprint(self) -> str:
        """SHA-256 over shapes, pixels and labels of all splits."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for images in self.splits.values():
            _describe(digest, images.pixels)
            for part in images.parts():
                digest.update(np.ascontiguousarray(part).data)
            if images.labels is not None:
                labels = np.ascontiguousarray(images.labels)
                _describe(digest, labels)
                digest.update(labels.data)
        return digest.hexdigest()

    @property
    def splits(self) -> dict[Split, Images]:
        """The splits it has, by name."""
        splits: dict[Split, Images] = {"train": self.train, "test": self.test}
        return splits if self.validation is None else {**splits, "validation": self.validation}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order of their labels; none if config.json has no room."""
        names = tuple(name for _, name in sorted(self.train.classes.items()))
        size = len(json.dumps(names, indent=6))  # as config.json is written
        return names if size <= MAX_CLASS_NAMES_BYTES else ()

    @functools.cached_property
    def full_account(self) -> Account:
        """The account; that of a named set with what its pixels tell."""
        if self.origin is not None:
            return self.account
        ends = [
            (part.min(), part.max())
            for images in (self.train, self.test)
            for part in images.parts()
        ]
        lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
        test, train = (
            [value for part in images.parts() for value in image_hashes(part)]
            for images in (self.test, self.train)
        )
        shared = shared_note(count_shared(test, train), len(test), "test")
        return replace(
            self.account,
            values=(Values("8-bit", int(lowest), int(highest), 0, 255),),
            notes=(*self.account.notes, *shared),
        )

    def border(self) -> int:
        """Median grey level (0-255) along the border of the first 1,000 training images."""
        pixels = np.asarray(self.train.pixels[:1000])
        edges = (pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1])
        levels = np.sort(np.concatenate([edge.ravel() for edge in edges]))
        return int(levels[(len(levels) - 1) // 2])


def _describe(digest: hashlib._Hash, array: NDArray[Any] | Mapped | Tensor) -> None:
    kind = str(array.dtype).removeprefix("torch.")
    digest.update(f"torch.{kind}{tuple(array.shape)}".encode())


def image_hashes(pixels: NDArray[np.uint8]) -> Iterator[int]:
    """A hash of each image's pixels, (N, C, H, W); it differs from one process to the next."""
    return (hash(image.tobytes()) for image in pixels)


def count_shared(hashes: Sequence[int], training: Sequence[int]) -> int:
    """How many of the images with these hashes are training images too, pixel by pixel."""
    shared = {*hashes}.intersection(training)
    return sum(value in shared for value in hashes)


def shared_note(shared: int, count: int, split: Split) -> Iterator[str]:
    """A note on identical pictures in the training set and another split."""
    if shared:
        yield f"{shared:,} of the {count:,} {split} images are training images too"


def static_binarized(dataset: Dataset) -> Dataset:
    """The set in black and white, drawn once: the same for every run and seed.

    The draw of an image depends on its place in its split.  A mapped set stays where it is, and is
    drawn where it is read.
    """
    import torch

    from vaecli.noise import STATIC_SEED, LevelNoise, chunks_of_window

    shape = dataset.image_shape
    window = 0 if dataset.origin is None else dataset.origin.window

    def draw(images: Images, split: str) -> Images:
        keep = chunks_of_window(window, shape)
        levels = LevelNoise(shape, seed=STATIC_SEED, purpose=f"static {split}", keep=keep)
        if isinstance(images.pixels, Mapped):
            return replace(images, pixels=images.pixels.binarized(levels))
        return replace(images, pixels=levels.binarize(torch.as_tensor(images.pixels), 0).numpy())

    drawn = {split: draw(images, split) for split, images in dataset.splits.items()}
    return replace(
        dataset, train=drawn["train"], test=drawn["test"], validation=drawn.get("validation")
    )
