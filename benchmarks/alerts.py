"""Do alerts keep their promise?  On 20 splits of ordinary digits, and with 100 foreign images.

    vaecli train --data mnist --limit 50000 -o runs/unseen
    python benchmarks/alerts.py runs/unseen --data-dir DIR

The model has not seen 20,000 digits of MNIST: the test images, and the training images after the
first 50,000.  20 times they are split at random into 10,000 that are held out and 10,000 ordinary
ones, scored by loss, and compared at a rate of 1 %.  Then 100 of the ordinary ones are replaced by
noise, capital letters and inverted digits.  Last, `vaecli eval --alert-rate` itself judges the
10,000 training images, by what the run keeps of the test images.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from anomalies import foreign_images, write_idx
from numpy.typing import NDArray

from vaecli.cli import app
from vaecli.data import catalogue
from vaecli.data.dataset import Images
from vaecli.data.reading import Reading
from vaecli.evaluation.alerts import p_values
from vaecli.evaluation.evaluate import evaluate
from vaecli.runs.load import load_model

RATE, SPLITS, SEEN = 0.01, 20, 50_000


def spread(n: int, m: int, rate: float) -> tuple[float, float]:
    """Where the share of alerts among m ordinary images lies with 95 %, over splits.

    Given n held-out images without ties, the probability of an alert is Beta(k, n + 1 - k), with
    k = floor(rate (n + 1)); the number of alerts is then binomial.
    """
    rng, k = np.random.default_rng(0), math.floor(rate * (n + 1))
    drawn = rng.binomial(m, rng.beta(k, n + 1 - k, 100_000)) / m
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def verdicts(foreign: NDArray[np.bool_], alert: NDArray[np.bool_]) -> tuple[float, float]:
    """Precision and recall."""
    hits = (foreign & alert).sum()
    return float(hits / alert.sum()), float(hits / foreign.sum())


def by_the_command(run: Path, pixels: NDArray[np.uint8]) -> dict[str, object]:
    """What `vaecli eval --alert-rate` says of digits."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, scores = Path(temporary), Path(temporary) / "scores.jsonl"
        for prefix in ("train", "t10k"):
            write_idx(folder / f"MNIST/raw/{prefix}-images-idx3-ubyte.gz", pixels)
            labels = np.zeros(len(pixels), np.uint8)
            write_idx(folder / f"MNIST/raw/{prefix}-labels-idx1-ubyte.gz", labels)
        arguments = ["eval", "-q", "-m", run, "-d", "mnist", "--split", "test", "--per-image"]
        arguments += [scores, "--alert-rate", RATE, "--data-dir", folder, "--no-download"]
        if code := app.run([str(argument) for argument in arguments]):
            raise SystemExit(code)
        rows = [json.loads(line) for line in scores.read_text().splitlines()]
    return {"alerts": sum(row["verdict"] == "alert" for row in rows), "images": len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/alerts.json"))
    options = parser.parse_args()
    dataset = catalogue.load("mnist", Reading(options.data_dir))
    later = np.asarray(dataset.train.pixels[SEEN:])
    pool = np.concatenate([np.asarray(dataset.test.pixels[:]), later])
    foreign = foreign_images(np.asarray(dataset.test.pixels[:100])[:, 0])[0][:, None]
    model = load_model(str(options.run)).model
    scores = evaluate(model, Images(pool), seed=1).losses.numpy()
    strange = evaluate(model, Images(foreign), seed=2).losses.numpy()
    half = len(pool) // 2
    rates, precisions, recalls = [], [], []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(pool))
        held_out, ordinary = np.sort(scores[order[:half]]), scores[order[half:]]
        rates.append(float((p_values(ordinary, held_out) <= RATE).mean()))
        mixed = np.concatenate([strange, ordinary[len(strange) :]])
        alert = p_values(mixed, held_out) <= RATE
        precision, recall = verdicts(np.arange(half) < len(strange), alert)
        precisions.append(precision)
        recalls.append(recall)
    low, high = spread(half, half, RATE)
    result = {
        "rate": RATE,
        "rates of alerts on 10,000 ordinary digits": rates,
        "mean rate": float(np.mean(rates)),
        "95 % of splits by the theory": [low, high],
        "splits within": sum(low <= rate <= high for rate in rates),
        "precision, 100 foreign of 10,000": [min(precisions), max(precisions)],
        "mean precision": float(np.mean(precisions)),
        "recall, 100 foreign of 10,000": [min(recalls), max(recalls)],
        "mean recall": float(np.mean(recalls)),
        "the command, later training images": by_the_command(options.run, later[:, 0]),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
