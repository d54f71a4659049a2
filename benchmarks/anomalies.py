"""Does the loss find what does not belong?  One percent foreign images among MNIST test digits.

python benchmarks/anomalies.py RUN --data-dir DIR

Writes a set of 9,900 digits and 100 foreign images (uniform noise, capital letters, inverted
digits), scores it with `vaecli eval --per-image`, and prints the area under the ROC curve.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vaecli.cli import app
from vaecli.data import catalogue
from vaecli.data.reading import Reading

Bytes = NDArray[np.uint8]


def letter(character: str, size: int) -> Bytes:
    """A capital, white on black, about as high as a digit, in the middle of 28x28."""
    image = Image.new("L", (28, 28))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).text(
        (14, 14), character, fill=255, font=font, anchor="mm", stroke_width=1
    )
    return np.asarray(image)


def write_idx(path: Path, array: Bytes) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def foreign_images(digits: Bytes) -> tuple[Bytes, NDArray[np.uint8]]:
    """34 of noise, 33 capital letters, 33 inverted digits: (100, 28, 28), and the kind, 1 to 3."""
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (34, 28, 28)).astype(np.uint8)
    letters = [letter("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i % 26], 27 + i % 3) for i in range(33)]
    kinds = np.repeat([1, 2, 3], [34, 33, 33]).astype(np.uint8)
    return np.concatenate([noise, np.stack(letters), 255 - digits[:33]]), kinds


def area_under_roc(foreign: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """The share of pairs in which the foreign image has the higher score."""
    own = np.sort(own)
    below = np.searchsorted(own, foreign, "left") + np.searchsorted(own, foreign, "right")
    return float(below.mean() / 2 / len(own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    rng = np.random.Generator(np.random.PCG64(0))
    digits = np.asarray(catalogue.load("mnist", Reading(options.data_dir)).test.pixels)[:, 0]
    foreign, foreign_kinds = foreign_images(digits[9900:])
    images = np.concatenate([digits[:9900], foreign])
    kinds = np.concatenate([np.zeros(9900, np.uint8), foreign_kinds])
    order = rng.permutation(len(images))
    with tempfile.TemporaryDirectory() as temporary:
        folder, scores = Path(temporary), Path(temporary) / "scores.csv"
        for prefix in ("train", "t10k"):
            write_idx(folder / f"MNIST/raw/{prefix}-images-idx3-ubyte.gz", images[order])
            write_idx(folder / f"MNIST/raw/{prefix}-labels-idx1-ubyte.gz", kinds[order])
        arguments = ["eval", "-q", "-m", options.run, "-d", "mnist", "--split", "test"]
        arguments += ["--data-dir", folder, "--no-download", "--per-image", scores]
        if code := app.run([str(argument) for argument in arguments]):
            raise SystemExit(code)
        rows = list(csv.DictReader(scores.read_text().splitlines()))
    losses = np.array([float(row["loss"]) for row in rows])
    labels = np.array([int(row["label"]) for row in rows])
    own = losses[labels == 0]
    print(f"AUROC of the loss: {area_under_roc(losses[labels > 0], own):.4f}")
    for kind, name in enumerate(("noise", "letters", "inverted digits"), 1):
        print(f"  {name}: {area_under_roc(losses[labels == kind], own):.4f}")


if __name__ == "__main__":
    main()
