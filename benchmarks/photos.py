"""`vaecli train --data photos/`, as a user types it, on a few hundred photos of 64x64.

    python benchmarks/photos.py [--images 300] [--output docs/images/photos-64.png]

The photos are crops, of random place and size, of four photographs that come with scikit-image
(astronaut, cat, coffee, rocket: public domain or CC0), which has to be installed.  Those that the
training holds out are crops of the same photographs; a fifth (Grace Hopper, of matplotlib) it
never sees.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image
from sheet import write_sheet
from skimage import data

import vaecli
from vaecli.evaluation.units import bits_per_dim

SIDE, SMALLEST, LARGEST = 64, 80, 300
SHOWN = 6
"""Of the photos held out, and of the photograph that was never seen."""
Pixels = NDArray[np.uint8]


def crops(photographs: list[Image.Image], count: int, seed: int) -> Pixels:
    """Crops (count, 3, 64, 64) of photographs in turn."""
    rng, found = np.random.default_rng(seed), list[Pixels]()
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = photograph.size
        side = int(rng.integers(SMALLEST, min(width, height, LARGEST)))
        x, y = int(rng.integers(width - side)), int(rng.integers(height - side))
        crop = photograph.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.LANCZOS)
        found.append(np.asarray(crop).transpose(2, 0, 1))
    return np.stack(found)


def psnr(images: Pixels, others: Pixels) -> float:
    """Mean over images (N, C, H, W), decibels."""
    error = np.square(images.astype(float) - others).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("docs/images/photos-64.png"))
    options = parser.parse_args()
    taken = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    photos = crops([Image.fromarray(each) for each in taken], options.images, seed=0)
    with get_sample_data("grace_hopper.jpg") as file:
        unseen = crops([Image.open(file).convert("RGB")], 60, seed=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        for index, photo in enumerate(photos):
            Image.fromarray(photo.transpose(1, 2, 0)).save(folder / f"{index:03}.png")
        command = [sys.executable, "-m", "vaecli", "train", "--data", "photos/", "-o", "run"]
        before = time.perf_counter()
        subprocess.run(command, cwd=temporary, check=True)
        seconds = time.perf_counter() - before
        model, per_image = vaecli.load(Path(temporary) / "run", device="cpu"), "held-out.csv"
        judge = [*command[:3], "eval", "-m", "run", "--per-image", per_image, "-q"]
        subprocess.run(judge, cwd=temporary, check=True)
        with (Path(temporary) / per_image).open(newline="") as rows:
            held_out = photos[[int(Path(row["path"]).stem) for row in csv.DictReader(rows)]]
    print(f"{len(photos) - len(held_out)} photos, {seconds:.0f} s in all")
    shown = list[tuple[Pixels, Pixels]]()
    for name, images in (("held out", held_out), ("of another photograph", unseen)):
        again = (255 * model.reconstruct(images).numpy()).round().astype(np.uint8)
        bits = bits_per_dim(model.evaluate(images).loss, images[0].size)
        print(f"{name}: {len(images)}, {bits:.2f} bits/dim, {psnr(images, again):.1f} dB")
        shown.append((images[:SHOWN], again[:SHOWN]))
    originals, reconstructions = (np.concatenate(each) for each in zip(*shown, strict=True))
    write_sheet(options.output, {"photos": originals, "reconstructions": reconstructions})


if __name__ == "__main__":
    main()
