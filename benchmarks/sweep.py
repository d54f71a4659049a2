"""The search for the default recipe, on training images only.

    python benchmarks/sweep.py --data-dir DIR [--epochs 5,20] [--threads N] [--only TEXT]

Trains on the first 50,000 training images of MNIST and judges on the last 10,000 of them; the test
set is not read.  A row that stands in `results/sweep.json` already is not trained again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
KEPT = 50_000
BASE: dict[str, Any] = {
    "batch_size": 128,
    "lr": 4e-3,
    "schedule": "linear",
    "output_bias": "mean",
    "beta2": 0.98,
    "warmup": 0.25,
    "seed": 0,
}


def grid() -> Iterator[dict[str, Any]]:
    """Batch size and learning rate together, then one change at a time."""
    for batch_size, rates in (
        (64, (2e-3, 3e-3)),
        (128, (2e-3, 3e-3, 4e-3, 6e-3, 8e-3)),
        (256, (4e-3, 6e-3, 8e-3, 12e-3)),
    ):
        for rate in rates:
            yield {"batch_size": batch_size, "lr": rate}
    yield from ({"beta2": value} for value in (0.95, 0.99, 0.999))
    yield from ({"lr": rate, "beta2": 0.999, "warmup": 0.05} for rate in (4e-3, 6e-3, 3e-3))
    yield {"lr": 4e-3, "beta2": 0.999, "warmup": 0.1}
    yield from ({"warmup": value} for value in (0.05, 0.1, 0.4))
    yield from ({"schedule": "cosine"}, {"output_bias": "zero"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--epochs", default="5,20")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose settings contain this text")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "sweep.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hold_out(options.data_dir / "MNIST/raw", folder / "MNIST/raw")
        for epochs in map(int, options.epochs.split(",")):
            for change in grid():
                settings = {**BASE, **change, "epochs": epochs}
                if options.only not in json.dumps(settings) or any(
                    row["settings"] == settings for row in rows
                ):
                    continue
                rows.append({"settings": settings, "held_out_loss": fit(settings, folder)})
                print(json.dumps(rows[-1]), flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "sweep.md").write_text(table(rows))


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


def fit(settings: dict[str, Any], folder: Path) -> float:
    """Held-out loss after the last epoch, nats per image."""
    import vaecli
    from vaecli import training

    settings = dict(settings)
    training.DECAYED_BETAS = (0.9, settings.pop("beta2"))
    training.WARMUP_FRACTION = settings.pop("warmup")
    with tempfile.TemporaryDirectory() as name:
        events = vaecli.train(
            "mnist", data_dir=folder, output=Path(name) / "run", device="cpu", **settings
        )
        for event in events:
            if isinstance(event, training.Finished):
                events.close()  # no pictures are needed
                return float(event.metrics[-1].test_loss)
    raise AssertionError("training did not finish")


def table(rows: list[dict[str, Any]]) -> str:
    """Each setting with what it changes, and the loss at each length."""
    lengths = sorted({row["settings"]["epochs"] for row in rows})
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        settings = row["settings"]
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
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
