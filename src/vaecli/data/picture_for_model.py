"""Reads one image file for a trained model."""

from __future__ import annotations

from pathlib import Path

from vaecli.config import ModelConfig
from vaecli.data import levels
from vaecli.data.digit_fit import Invert
from vaecli.data.image_file import read_image
from vaecli.data.picture_fit import Fit, prepare
from vaecli.data.pixels import Bytes


def read_picture(
    config: ModelConfig,
    source: Path | bytes,
    *,
    fit: Fit = "auto",
    invert: Invert = "auto",
    name: str,
) -> tuple[Bytes, tuple[str, ...]]:
    """An image file, or its bytes, at the model's shape.

    Returns:
        (C, H, W) uint8, and a note on each change that was made.

    Raises:
        DataError: it cannot be read.
    """
    picture = read_image(source, name=name, ranges=levels.of_model(config))
    if picture.levels is not None:
        levels.refuse([picture.levels], f"cannot read the image: {name}", black_too=False)
    pixels, notes = prepare(
        picture,
        config.image_shape,
        border=config.border,
        digits=config.digits,
        fit=fit,
        set_fit=config.fit,
        invert=invert,
        name=name,
    )
    return pixels, tuple(f"{name}: {note}" for note in notes)
