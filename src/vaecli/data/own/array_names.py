"""What array names and shapes tell: images or labels, the split, one image or many."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from vaecli.data.splits_and_classes import SPLIT_WORDS, Split

CHANNELS = (1, 3, 4)
"""Sizes of a last axis that may be the channels of one image."""
_IMAGES = r"(?P<images>x|images?|imgs?|data|pictures?|pixels?|samples?|inputs?)"
_LABELS = r"(?P<labels>y|labels?|targets?|class(?:es)?)"
_SPLIT = rf"(?P<split>{'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})s?"
_CONTENT = rf"(?:{_IMAGES}|{_LABELS})"
_ARRAY_NAMES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        _CONTENT,
        rf"{_CONTENT}[\W_]*{_SPLIT}",
        rf"{_SPLIT}[\W_]*{_CONTENT}",
        rf"{_SPLIT}(?P<images>)",
    )
]


@dataclass(frozen=True)
class ArrayPart:
    """An array of images, the array of their labels (or None), and their split (None: drawn)."""

    images: str
    labels: str | None
    split: Split | None


def understand(names: Iterable[str], images: Collection[str]) -> list[ArrayPart]:
    """Read roles and splits from names such as `x_train`, `train_labels`, `X`, `imgs`, `test`.

    Args:
        names: of all arrays.
        images: those that have the shape of images.

    Raises:
        ValueError: two arrays claim to be the images of one split.
    """
    roles = {name: role for name in names if (role := _array_role(name))}
    labels: dict[Split | None, str] = {}
    images_of: dict[Split | None, str] = {}
    for name, (kind, split) in roles.items():
        if kind == "labels":
            labels.setdefault(split, name)
        elif name in images:
            if split in images_of:
                raise ValueError(
                    f"{images_of[split]} and {name} both seem to be its {split or ''} images:"
                    " keep one"
                )
            images_of[split] = name
    if not images_of and len(images) == 1:
        return [ArrayPart(next(iter(images)), labels.get(None), None)]
    if "train" in images_of:
        images_of.pop(None, None)
    meaning: dict[Split | None, Split | None] = {split: split for split in images_of}
    if len(images_of) == 1:
        meaning = dict.fromkeys(images_of)  # one split alone is a whole set
    else:
        meaning |= {None: "train"}
        meaning |= {} if "test" in images_of else {"validation": "test"}
    return [ArrayPart(name, labels.get(split), meaning[split]) for split, name in images_of.items()]


def is_image_name(name: str) -> bool:
    """Whether the name of an array says that it holds images."""
    role = _array_role(name)
    return role is not None and role[0] == "images"


def shape_of_images(shape: tuple[int, ...], *, alone: bool) -> tuple[int, ...]:
    """The shape of an array of images; (N, H*W) becomes (N, H, W), the images being square.

    Args:
        shape: of the array.
        alone: whether nothing but the shape says what it is: no labels, and no other split.

    Raises:
        ValueError: it may be one image as well as many, or its rows are no square.
    """
    text = f"its shape {shape}"
    if len(shape) == 3 and (shape[2] in CHANNELS or (alone and shape[0] == 3)):
        height, width = shape[:2] if shape[2] in CHANNELS else shape[1:]
        raise ValueError(
            f"{text} may be one image of {height}x{width}, or {shape[0]} grey images of"
            f" {shape[1]}x{shape[2]}: save one as {(1, *shape)}, many as {(*shape, 1)}"
        )
    if len(shape) != 2:
        return shape
    side = math.isqrt(shape[1])
    if side * side != shape[1] or not side:
        raise ValueError(
            f"{text} is not an image shape: its rows of {shape[1]:,} values are not square images"
        )
    if alone and shape[0] == shape[1]:
        raise ValueError(
            f"{text} may be one image, or {shape[0]} images of {side}x{side}: save one as"
            f" {(1, *shape)}, many as {(shape[0], side, side)}"
        )
    return shape[0], side, side


def _array_role(name: str) -> tuple[Literal["images", "labels"], Split | None] | None:
    for pattern in _ARRAY_NAMES:
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            word = groups.get("split")
            split = None if word is None else SPLIT_WORDS[word.lower()]
            return "labels" if groups.get("labels") else "images", split  # type: ignore[return-value]
    return None
