"""The classes that a model is conditioned on, and those of images, by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaecli import philox
from vaecli.config import ModelConfig
from vaecli.errors import UsageError
from vaecli.system.size_limits import MAX_CLASSES, MAX_CONDITION_BYTES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vaecli.data.dataset import Dataset, Images

Labels = NDArray[np.int64]
NAMED = 20
"""Class names that a message lists, and a grid has rows for."""


def condition(dataset: Dataset) -> dict[str, tuple[str, ...] | tuple[int, ...]]:
    """Names of the classes of a set in the order of their labels, and training images of each.

    Raises:
        UsageError: images have no class, or the training images do not have those of the others.
    """
    where = f"--condition labels: {dataset.name}"
    found, counts = _known(dataset.train, where, "its training images")
    names = tuple(dataset.train.class_name(label) for label in found)
    if not 2 <= len(names) <= MAX_CLASSES or len(json.dumps(names)) > MAX_CONDITION_BYTES:
        raise UsageError(
            f"{where}: its training images have {len(names):,} class{'es' * (len(names) > 1)}:"
            f" it takes 2 to {MAX_CLASSES:,}, with short names",
            "Leave --condition out, or use other classes.",
        )
    for split, images in dataset.splits.items():
        others, _ = _known(images, where, f"its {split} images")
        for name in map(images.class_name, others):
            if name not in names:
                raise UsageError(
                    f"{where}: there are {split} images of the class {name!r:.80}, but no training"
                    " images",
                    "Train on all classes: leave --limit out, or move images.",
                )
    return {"classes": names, "class_counts": tuple(counts)}


def of_images(config: ModelConfig, images: Images) -> Labels | None:
    """The place of each image's class among those of the model, (N,); None if it takes none.

    Raises:
        UsageError: the model needs classes, and an image has none of its own.
    """
    if not config.classes:
        return None
    what = "this model was trained with --condition labels and needs the class of each image"
    found, _ = _known(images, what, "these images")
    names = {label: images.class_name(label) for label in found}
    for name in names.values():
        if name not in config.classes:
            raise UsageError(
                f"{what}: it does not know the class {name!r:.80}",
                f"Its classes are {listed(config.classes)}.",
            )
    assert images.labels is not None
    places = np.array([config.classes.index(names[label]) for label in found], np.int64)
    return places[np.searchsorted(found, images.labels)]


def on_device(config: ModelConfig, images: Images, device: torch.device) -> Tensor | None:
    """As `of_images`, as a tensor."""
    import torch

    places = of_images(config, images)
    return None if places is None else torch.from_numpy(places).to(device)


def place(config: ModelConfig, name: str) -> int:
    """The place of a class that `--label` names, or numbers where no class is called so.

    Raises:
        UsageError: the model takes no classes, or has none of that name.
    """
    if not config.classes:
        raise UsageError(
            f"--label {name:.80}: this model was trained without --condition labels",
            "Leave --label out, or name another model with -m.",
        )
    if name in config.classes:
        return config.classes.index(name)
    numbers = all(each.lstrip("-").isdecimal() for each in config.classes)
    if name.isascii() and name.isdecimal() and not numbers and int(name) < len(config.classes):
        return int(name)
    raise UsageError(
        f"--label {name:.80}: the model has no such class",
        f"Its classes are {listed(config.classes)}.",
    )


def drawn(config: ModelConfig, count: int, *, seed: int) -> Labels | None:
    """Places of classes, as frequent as in training, (count,); None if the model takes none."""
    if not config.classes:
        return None
    reach = np.cumsum(config.class_counts) / sum(config.class_counts)
    uniform = philox.uniform(1, 0, count, seed=seed, purpose="labels")[:, 0]
    return np.searchsorted(reach, uniform, "right").clip(max=len(reach) - 1)


def repeated(config: ModelConfig, name: str, count: int) -> Labels:
    """The place of the class that `--label` names, (count,); errors as for `place`."""
    return np.full(count, place(config, name), np.int64)


def drawn_names(config: ModelConfig, count: int, *, seed: int) -> list[str]:
    """As `drawn`, by name."""
    places = drawn(config, count, seed=seed)
    return [] if places is None else [config.classes[place] for place in places.tolist()]


def rows_of_classes(config: ModelConfig, columns: int) -> Labels | None:
    """Places of classes for a grid with a row for each; None for no or too many classes."""
    if not 0 < len(config.classes) <= NAMED:
        return None
    return np.arange(len(config.classes)).repeat(columns)


def listed(names: Sequence[str]) -> str:
    """The first names of a list."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _known(images: Images, where: str, which: str) -> tuple[list[int], list[int]]:
    """The labels there are, in order, and how many images have each."""
    from vaecli.data.splits_and_classes import UNKNOWN

    hint = "Use images with classes, such as a folder for each, or a model without --condition."
    if images.labels is None:
        raise UsageError(f"{where}: {which} have no classes", hint)
    found, counts = np.unique(images.labels, return_counts=True)
    if UNKNOWN in found:
        raise UsageError(f"{where}: some of {which} have no class", hint)
    return found.tolist(), counts.tolist()
