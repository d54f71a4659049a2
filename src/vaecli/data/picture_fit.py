"""Brings a decoded picture to a model's channels, size and polarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from vaecli.data.digit_fit import Invert, digit_ink, edge_of
from vaecli.data.image_file import Bytes, Picture
from vaecli.data.origin import SetFit
from vaecli.data.pixels import quantile
from vaecli.errors import DataError

Fit = Literal["auto", "crop", "pad", "stretch", "digit"]
WHITE = 255


@dataclass(frozen=True)
class Fitting:
    """How a picture is brought to a shape: arguments of `prepare`, which explains them."""

    border: int = WHITE
    digits: bool = False
    fit: Fit = "crop"
    set_fit: SetFit = "crop"
    invert: Invert = "no"

    @property
    def way(self) -> SetFit | None:
        """Crop, pad or stretch, if nothing but the size changes; else None."""
        if self.border != WHITE or self.digits or self.invert != "no" or self.fit == "digit":
            return None
        return self.set_fit if self.fit == "auto" else self.fit


def prepare(
    picture: Picture,
    image_shape: tuple[int, int, int],
    *,
    border: int,
    digits: bool,
    fit: Fit = "auto",
    set_fit: SetFit = "crop",
    invert: Invert = "auto",
    name: str,
) -> tuple[Bytes, tuple[str, ...]]:
    """Bring a picture to a model's channels, size and polarity.

    A picture that already has the model's shape and polarity is not changed.

    Args:
        picture: what `read_image` gave.
        image_shape: (C, H, W) of the model, C 1 or 3.
        border: grey level (0-255) along the border of the model's training images.
        digits: the model was trained on digits, made as MNIST was.
        fit: `auto` fits a digit for grey models of digits and inputs of another size, else does
            as `set_fit` says.
        set_fit: how the training images were brought to their size.
        invert: `auto` inverts, for grey models, a picture whose background has the opposite
            polarity.
        name: what messages call the picture.

    Returns:
        (C, H, W) uint8, and a note for every change made.

    Raises:
        DataError: the model has neither 1 nor 3 channels.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(
            f"cannot fit the image: {name}: the model has {channels} channels, neither 1 nor 3",
            "Use a model of grey or RGB images.",
        )
    notes = list(picture.notes)
    image = _flatten(picture, channels, border, invert, notes)
    size = f"{image.width}x{image.height} to {width}x{height}"
    same = image.size == (width, height)
    if fit == "digit" or (fit == "auto" and digits and channels == 1 and not same):
        grey = np.asarray(image.convert("L"))
        ink = digit_ink(grey, (height, width), border, invert, notes)
        # ink runs from the border level to the far end of the scale
        plane = np.rint(border + ink * ((255 if border < 128 else 0) - border))
        notes.append(f"fitted as a digit: {size}")
        image = Image.fromarray(plane.astype(np.uint8)).convert(image.mode)
    else:
        if channels == 1 and (invert == "yes" or (invert == "auto" and _opposite(image, border))):
            image = ImageOps.invert(image)
            ground = (
                "dark ink on a light background"
                if border < 128
                else "light ink on a dark background"
            )
            notes.append(f"inverted: {ground}" if invert == "auto" else "inverted, as asked")
        if not same:
            image, changed = fitted(image, (width, height), set_fit if fit == "auto" else fit)
            notes.append(f"{changed}resized: {size}")
    pixels = np.array(image).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), tuple(notes)


def fitted(image: Image.Image, size: tuple[int, int], fit: SetFit) -> tuple[Image.Image, str]:
    """Bring a picture to a width and height, and say what was done besides resizing.

    `crop` cuts off what is too wide or too high, `pad` adds bars of the colour that is the median
    along the picture's own edge, `stretch` changes its proportions.
    """
    width, height = size
    bicubic = Image.Resampling.BICUBIC
    box = centre_box(image.size, width / height)
    if box == (0, 0, *image.size) or fit == "stretch":
        changed = "" if box == (0, 0, *image.size) else "stretched and "
        return image.resize(size, bicubic, reducing_gap=3.0), changed
    if fit == "crop":
        return image.resize(size, bicubic, box, reducing_gap=3.0), "cropped at the centre and "
    scale = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    edge = edge_of(np.asarray(image))
    level = np.median(edge, axis=0)
    colour = tuple(map(int, level)) if level.ndim else int(level)
    ground = Image.new(image.mode, size, colour)
    place = (width - inner[0]) // 2, (height - inner[1]) // 2
    ground.paste(image.resize(inner, bicubic, reducing_gap=3.0), place)
    return ground, "padded and "


def _flatten(
    picture: Picture, channels: int, border: int, invert: Invert, notes: list[str]
) -> Image.Image:
    """Convert a picture to the model's channels, L or RGB, and put a ground behind its alpha."""
    pixels = picture.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
        notes.append("RGB converted to grey")
    elif channels == 3 and image.mode == "L":
        image = image.convert("RGB")
        notes.append("grey repeated over three channels")
    if picture.alpha is None or picture.alpha.min() == 255:
        return image
    level = 255
    if channels == 1:
        level = 255 - border if invert == "yes" else border
        if invert == "auto":
            level = _ground_behind(np.asarray(image), picture.alpha, border)
    notes.append(f"alpha composited on {({0: 'black', 255: 'white'}).get(level, f'grey {level}')}")
    ground = Image.new(image.mode, image.size, (level,) * len(image.getbands()))
    return Image.composite(image, ground, Image.fromarray(picture.alpha))


def _polar(border: int) -> bool:
    """Whether the border is so dark or light that the ink must be the opposite."""
    return min(border, 255 - border) < 64


def _ground_behind(grey: Bytes, alpha: Bytes, border: int) -> int:
    """Level to paint behind a transparent picture, so that its ink can be seen.

    Visible pixels are ink, and get a ground of the opposite brightness; unless they fill their
    bounding box with both dark and light, like a card with ink on it: then the ground is as
    bright as the card.
    """
    seen = alpha > 127
    if not _polar(border) or not seen.any():
        return border
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    low, middle, high = (quantile(grey[seen], share) for share in (0.02, 0.5, 0.98))
    if high - low > 96 and seen.sum() > 0.66 * area:
        return int(middle)
    ink = float(grey[seen].mean())
    return border if abs(ink - border) >= abs(ink - (255 - border)) else 255 - border


def _opposite(image: Image.Image, border: int) -> bool:
    """Whether the border of a grey image is even and has the opposite brightness."""
    edge = edge_of(np.asarray(image)).astype(np.int16)
    level = int(np.median(edge))
    even = float((abs(edge - level) <= 32).mean()) >= 0.75
    return _polar(border) and even and abs(level - border) >= 128


def centre_box(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Largest centred part of width / height `aspect`: left, top, right, bottom."""
    width, height = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height
