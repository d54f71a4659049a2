"""A folder of JPEGs: the first pass against torchvision, the second start, a later epoch.

Pictures of mixed sizes are generated, brought to 64 x 64, and read in turn by `vaecli` (decode,
crop, resize, cache on disk, checked) and by torchvision's ImageFolder with a DataLoader of two
workers that does the same crop and resize and keeps nothing.

    python benchmarks/folder.py [COUNT] [ROUNDS] [FOLDER]

FOLDER keeps the pictures for another time.  An epoch is measured on the folder and on the same
images as an array in turn, three times each.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vaecli.data.origin import Options
from vaecli.data.own import prepare as own
from vaecli.data.reading import Reading
from vaecli.training import loop, planning
from vaecli.training.plan import Request
from vaecli.training.settings import Settings

SIZE = 64


def generate(folder: Path, count: int) -> None:
    """Soft blobs with noise, 128 to 640 pixels a side: about 40 kB each, as small photos have."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        width, height = (int(side) for side in rng.integers(128, 641, 2))
        low = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        soft = np.asarray(low.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (soft + rng.integers(-12, 13, (height, width, 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:06d}.jpg", quality=85)


def prepare(folder: Path, cache: Path) -> float:
    began = time.perf_counter()
    own.load(folder, Options(image_size=SIZE), Reading(cache))
    return time.perf_counter() - began


def torchvision_pass(folder: Path) -> float:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    began = time.perf_counter()
    bicubic = transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC)  # as vaecli does
    steps = [bicubic, transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    dataset = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    count = sum(len(batch) for batch, _ in DataLoader(dataset, batch_size=256, num_workers=2))
    assert count == len(dataset)
    return time.perf_counter() - began


def epoch_seconds(data: str, cache: Path, output: Path) -> float:
    """Median training time of an epoch without its test pass."""
    request = Request(Settings(epochs=3, hidden=(64,)), data, output=output)
    plan = planning.plan(request, Reading(cache))
    with plan.opened() as run:
        events = list(loop.train(run, plan.dataset))
    rows = [event.metrics for event in events if isinstance(event, loop.EpochEnd)]
    return statistics.median(len(plan.dataset.train) / row.images_per_second for row in rows)


def main(count: int, rounds: int, kept: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        photos = home / "photos" if kept is None else Path(kept)
        if not photos.exists():
            generate(photos / "class", count)
        ratios = []
        for number in range(rounds):
            cache = home / f"cache-{number}"
            ours, theirs = prepare(photos, cache), torchvision_pass(photos)
            ratios.append(theirs / ours)
            print(
                f"first pass: vaecli {count / ours:,.0f} images/s,"
                f" torchvision {count / theirs:,.0f}, ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(f"median ratio {statistics.median(ratios):.2f}")
        print(f"second start {prepare(photos, cache):.2f} s")
        dataset = own.load(photos, Options(image_size=SIZE), Reading(cache))
        pixels = {f"x_{name}": images.pixels[:] for name, images in dataset.splits.items()}
        np.savez(home / "array.npz", **pixels)
        sources = {"folder": photos, "array": home / "array.npz"}
        times: dict[str, list[float]] = {name: [] for name in sources}
        for number in range(3):
            for name, source in sources.items():
                times[name].append(epoch_seconds(str(source), cache, home / f"{name}-{number}"))
        found = {name: statistics.median(values) for name, values in times.items()}
        print(", ".join(f"an epoch of the {name} {found[name]:.2f} s" for name in found))
        print(f"ratio {found['folder'] / found['array']:.3f}; {times}")


if __name__ == "__main__":
    words = [*sys.argv[1:], *("20000", "3")[len(sys.argv) - 1 :]]
    main(int(words[0]), int(words[1]), *words[2:])
