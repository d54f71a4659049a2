"""The search for the default recipe, on training images only.

    python benchmarks/sweep.py --data-dir DIR [--epochs 5,20] [--threads N] [--only TEXT]

Trains on the first 50,000 training images of MNIST and judges on the last 10,000 of them; the test
set is not read.  A row that stands in `results/sweep.json` already is not trained again.  Writes
docs/recipe.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
KEPT = 50_000
BASE: dict[str, Any] = {
    "batch_size": 128,
    "lr": 6e-3,
    "schedule": "linear",
    "output_bias": "mean",
    "beta2": 0.999,
    "warmup": 0.05,
    "seed": 0,
}


def grid() -> Iterator[dict[str, Any]]:
    """The default recipe, one change at a time; then another corner, where the search began."""
    yield {}
    yield from ({"lr": rate} for rate in (4e-3, 8e-3))
    yield {"batch_size": 64, "lr": 4e-3}
    yield {"batch_size": 256, "lr": 8e-3}
    yield {"warmup": 0.25}
    yield from ({"schedule": "cosine"}, {"schedule": "constant", "lr": 1e-3})
    yield {"output_bias": "zero"}
    began = {"beta2": 0.98, "warmup": 0.25}
    yield from ({**began, "lr": rate} for rate in (4e-3, 6e-3, 8e-3))
    yield {**began, "batch_size": 64, "lr": 2e-3}
    yield from ({**began, "batch_size": 256, "lr": rate} for rate in (6e-3, 8e-3))
    yield from ({**began, "lr": 4e-3, **change} for change in ({"beta2": 0.95}, {"beta2": 0.99}))
    yield {"lr": 4e-3, "beta2": 0.98}
    yield {"lr": 4e-3, "warmup": 0.25}
    yield from ({"seed": seed} for seed in (1, 2))


def elsewhere() -> Iterator[dict[str, Any]]:
    """The default recipe and its neighbours on other images: a check, nothing is chosen by it."""
    for data in ("digits", "shapes"):
        for rate in (3e-3, 6e-3, 12e-3):
            yield from ({"data": data, "lr": rate, "seed": seed} for seed in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--epochs", default="5,20")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose settings contain this text")
    options = parser.parse_args()
    import numpy
    import torch

    torch.set_num_threads(options.threads)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "sweep.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hold_out(options.data_dir / "MNIST/raw", folder / "MNIST/raw")
        numpy.save(folder / "shapes.npy", shapes(12_000))
        for epochs in map(int, options.epochs.split(",")):
            for change in (*grid(), *elsewhere()):
                settings = {**BASE, **change, "epochs": epochs}
                if options.only not in json.dumps(settings) or any(
                    row["settings"] == settings for row in rows
                ):
                    continue
                rows.append({"settings": settings, "held_out_loss": fit(settings, folder)})
                print(json.dumps(rows[-1]), flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    (DOCS / "recipe.md").write_text(PAGE.format(table=table(rows), elsewhere=table_elsewhere(rows)))


def hold_out(source: Path, target: Path) -> None:
    """MNIST's training files in two: the last 10,000 images take the place of the test set."""
    target.mkdir(parents=True)
    for kind, header in (("images", 16), ("labels", 8)):
        data = gzip.decompress(
            (source / f"train-{kind}-idx{header // 4 - 1}-ubyte.gz").read_bytes()
        )
        size = (len(data) - header) // 60_000
        for prefix, first, last in (("train", 0, KEPT), ("t10k", KEPT, 60_000)):
            part = data[header + first * size : header + last * size]
            count = struct.pack(">I", last - first)
            name = f"{prefix}-{kind}-idx{header // 4 - 1}-ubyte.gz"
            content = data[:4] + count + data[8:header] + part
            (target / name).write_bytes(gzip.compress(content, 1))


def shapes(count: int) -> Any:
    """Grey 28x28 pictures, (N, 28, 28) uint8: a textured shape on a textured ground."""
    import numpy
    from colour import draw

    rng = numpy.random.default_rng(0)
    colours = numpy.stack([draw(rng)[:, 2:30, 2:30] for _ in range(count)])
    return colours.mean(1).round().astype(numpy.uint8)


def fit(settings: dict[str, Any], folder: Path) -> float:
    """Held-out loss after the last epoch, nats per image."""
    import vaecli
    from vaecli.training import loop, schedule, step

    settings = dict(settings)
    name = settings.pop("data", "mnist")
    source = folder / "shapes.npy" if name == "shapes" else name
    step.ADAM_BETAS = (0.9, settings.pop("beta2"))
    schedule.WARMUP_FRACTION = settings.pop("warmup")
    with tempfile.TemporaryDirectory() as name:
        events = vaecli.train(
            str(source), data_dir=folder, output=Path(name) / "run", device="cpu", **settings
        )
        for event in events:
            if isinstance(event, loop.Finished):
                events.close()  # no pictures are needed
                return float(event.metrics[-1].test_loss)
    raise AssertionError("training did not finish")


def table(rows: list[dict[str, Any]]) -> str:
    """Each setting with what it changes, and the loss at each length."""
    lengths = sorted({row["settings"]["epochs"] for row in rows})
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        settings = row["settings"]
        if "data" in settings:
            continue
        text = f"batch {settings['batch_size']}, lr {settings['lr']:g}"
        for name in ("schedule", "output_bias", "beta2", "warmup", "seed"):
            if settings[name] != BASE[name]:
                text += f", {name.replace('_', ' ')} {settings[name]}"
        found.setdefault(text, {})[settings["epochs"]] = row["held_out_loss"]
    lines = [f"| held-out loss after | {' | '.join(f'{n} epochs' for n in lengths)} |"]
    lines.append("| --- |" + " --- |" * len(lengths))
    for text, losses in found.items():
        cells = [f"{losses[n]:.2f}" if n in losses else "" for n in lengths]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_elsewhere(rows: list[dict[str, Any]]) -> str:
    """Mean and range over the seeds, of each set and rate."""
    found: dict[tuple[str, float, int], list[float]] = {}
    for row in rows:
        settings = row["settings"]
        if "data" in settings:
            key = settings["data"], settings["lr"], settings["epochs"]
            found.setdefault(key, []).append(row["held_out_loss"])
    lines = ["| images | lr | epochs | loss, mean of 3 seeds | range |", "| --- |" + " --- |" * 4]
    for (name, rate, epochs), losses in sorted(found.items()):
        spread = f"{min(losses):.2f} to {max(losses):.2f}"
        lines.append(f"| {name} | {rate:g} | {epochs} | {fmean(losses):.2f} | {spread} |")
    return "\n".join(lines)


PAGE = """\
# The default recipe

`vaecli train` without options trains 784-400-20-400-784 for 20 epochs, with batches of 128. The
optimizer is Adam with its usual decays, 0.9 and 0.999. The learning rate rises to 6e-3 over the
first twentieth of the steps, then falls linearly to zero. The decoder's output bias starts at the
mean training image.

If there are few steps, the rise takes 100 of them, but at most a quarter. On 300 generated photos
of 64x64 this ended at a loss of 65,472 nats, where a rise over a twentieth ended at 68,240. On 59
photos, the first epochs with a rise over a twentieth were ten times worse.

Everything but those 100 steps was chosen on MNIST's training images alone: trained on the first
50,000, judged on the last 10,000. No test set was used for it.

This table was made by `python benchmarks/sweep.py --data-dir DIR`. Each row names what it changes,
with seed 0. Losses are of the held-out images, in nats per image.

{table}

What the table shows:

- The decay to zero matters most: at a constant 1e-3 the same network is 2.6 nats behind after 20
  epochs, and 3.6 after 5.
- Batches of 64, 128 and 256, each with a learning rate that suits it, end within 0.2 nats of each
  other. After 5 epochs the smaller ones are ahead.
- Starting the output bias at the mean image is worth 1.1 nats after 5 epochs, and 0.1 after 20.
- A faster second decay (0.98) costs 0.4 nats.
- A cosine instead of a linear decay, or a longer warm-up, changes no more than the seed does.

The recipe was also tried on other images, to see whether it suits only MNIST. Nothing was chosen by
these results. The images are the built-in digits, and 12,000 generated grey pictures of
textured shapes on textured backgrounds, both with the same network.

{elsewhere}

The textbook script's own settings (batches of 128 at a constant 1e-3, zero bias) are available too:
`vaecli train --schedule constant --lr 1e-3 --output-bias zero`. How much sooner the default recipe
reaches the same loss is in [performance](performance.md).
"""


if __name__ == "__main__":
    main()
