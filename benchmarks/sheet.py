"""Rows of pictures with a name before each, for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vaecli.pictures.grid import Bytes, as_image, make_grid

MARGIN = 230


def write_sheet(path: Path, rows: Mapping[str, Bytes]) -> None:
    """Write a PNG; rows map a name to (N, C, H, W) uint8 images, N the same for all."""
    count = len(next(iter(rows.values())))
    grid = make_grid(np.concatenate(list(rows.values())), columns=count, scale=2)
    picture = as_image(grid)
    sheet = Image.new(picture.mode, (picture.width + MARGIN, picture.height), "white")
    sheet.paste(picture, (MARGIN, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    pitch = picture.height / len(rows)
    for index, name in enumerate(rows):
        draw.text((MARGIN - 8, (index + 0.5) * pitch), name, fill="black", font=font, anchor="rm")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
