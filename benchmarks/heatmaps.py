"""Do heat maps point at what is wrong?  And the pictures of docs/pictures.md.

    python benchmarks/heatmaps.py runs/digits --data-dir DIR [--folder DIR] [--shapes FILE]

From each of 1,000 test digits a square of 7x7 around a point of its ink is erased, or a bar of 9x3
is added where it has the least ink.  Printed are the AUROC of the hottest place against that of the
unaltered digits, and how often the hottest place lies in the altered part.  `--folder` gets the
digits and generated photos that docs/pictures.md and docs/alerts.md show.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from anomalies import area_under_roc
from colour import generate
from numpy.typing import NDArray
from PIL import Image

from vaecli.data import catalogue
from vaecli.data.reading import Reading
from vaecli.evaluation import heatmap
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.runs import held_out
from vaecli.runs.load import load_model

Bytes = NDArray[np.uint8]
Box = tuple[slice, slice]
COUNT = 1000


def erase(image: Bytes, rng: np.random.Generator) -> Box:
    """Erase 7x7 around a bright pixel of an image (28, 28); where."""
    y, x = rng.choice(np.argwhere(image > 200))
    box = slice(max(0, y - 3), y + 4), slice(max(0, x - 3), x + 4)
    image[box] = 0
    return box


def add(image: Bytes, rng: np.random.Generator) -> Box:
    """Add a bar to an image (28, 28), where of 20 places the least ink is; where."""
    places = [(int(y), int(x)) for y, x in rng.integers((3, 3), (22, 16), (20, 2))]
    boxes = [(slice(y, y + 3), slice(x, x + 9)) for y, x in places]
    box = min(boxes, key=lambda box: int(image[box].sum()))
    image[box] = 255
    return box


def inside(place: tuple[np.intp, ...], box: Box) -> bool:
    """Whether a pixel lies in a box, or beside it."""
    return all(part.start - 1 <= at <= part.stop for at, part in zip(place, box, strict=True))


def write_pictures(folder: Path, digit: Bytes) -> None:
    """The pictures that docs/pictures.md shows heat maps of."""
    folder.mkdir(parents=True, exist_ok=True)
    erased, added = digit.copy(), digit.copy()
    erased[18:23, 17:22] = 0
    for step in range(9):
        added[2 + step : 4 + step, 17 + step : 19 + step] = 255
    for name, image in (("digit", digit), ("erased", erased), ("added", added)):
        Image.fromarray(image).save(folder / f"{name}.png")
    photos = generate(12, seed=7).transpose(0, 2, 3, 1)
    for number, (whole, other) in enumerate(zip(photos[:6], photos[6:], strict=True)):
        Image.fromarray(whole).save(folder / f"photo-{number}.png")
        whole[3:11, 21:29] = other[12:20, 12:20]
        Image.fromarray(whole).save(folder / f"photo-{number}-pasted.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("VAECLI_DATA_DIR"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--shapes", type=Path, help="where 12,000 generated photos go, an .npz")
    options = parser.parse_args()
    if options.shapes is not None:
        np.savez(options.shapes, x_train=generate(10_000, seed=0), x_test=generate(2000, seed=1))
    digits = np.asarray(catalogue.load("mnist", Reading(options.data_dir)).test.pixels[:COUNT])
    if options.folder is not None:
        write_pictures(options.folder, digits[3, 0])
    loaded = load_model(str(options.run))
    runner, usual = NumpyVAE(loaded.config, loaded.weights), held_out.read(loaded, "").surprise

    def excess(pixels: Bytes) -> NDArray[np.float32]:
        return heatmap.surprise(runner, pixels) - usual.mean

    own = excess(digits).max((1, 2)).astype(np.float64)
    for name, alter in (("7x7 erased", erase), ("9x3 added", add)):
        rng, altered = np.random.default_rng(0), digits.copy()
        boxes = [alter(image[0], rng) for image in altered]
        maps = excess(altered)
        hottest = [np.unravel_index(each.argmax(), each.shape) for each in maps]
        hits = np.mean([inside(place, box) for place, box in zip(hottest, boxes, strict=True)])
        area = area_under_roc(maps.max((1, 2)).astype(np.float64), own)
        print(f"{name}: AUROC {area:.3f}, hottest place inside {100 * hits:.1f} %")


if __name__ == "__main__":
    main()
