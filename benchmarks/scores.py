"""Which score finds what does not belong?  AUROC and AUPRC of each, on pairs of sets.

    python benchmarks/scores.py FOLDER --data-dir DIR

FOLDER gets the runs, and keeps them: MNIST, MNIST without the 4, without the 1 (default settings,
5 epochs each), and 10,000 generated photos of one shape each (conv with the logistic likelihood, 8
epochs).  Of each pair, 1,000 test images of the run's own kind are held against 1,000 foreign ones.
The default is the score of the highest mean AUROC on the pairs that choose; the others show it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anomalies import area_under_roc, letter
from colour import SIDE, generate
from numpy.typing import NDArray

import vaecli
from vaecli.data import catalogue
from vaecli.data.dataset import Images
from vaecli.data.reading import Reading
from vaecli.evaluation import alerts
from vaecli.evaluation.evaluate import evaluate
from vaecli.runs.directory import HELD_OUT
from vaecli.runs.load import load_model
from vaecli.training import calibration

Bytes = NDArray[np.uint8]
COUNT = 1000


@dataclass(frozen=True)
class Pair:
    """Images of the kind a model was trained on, and foreign ones, (N, C, H, W) each."""

    run: str
    foreign: str
    chooses: bool
    own_images: Bytes
    foreign_images: Bytes


def precision_area(foreign: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """Area under precision over recall: the mean precision at each foreign image, by score.

    Of equal scores the own image counts as the higher, so that ties gain nothing.
    """
    scores = np.concatenate([foreign, own])
    is_foreign = np.arange(len(scores)) < len(foreign)
    order = np.lexsort((is_foreign, -scores))
    hits = is_foreign[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def digit_pairs(digits: Bytes, labels: NDArray[np.uint8], rng: np.random.Generator) -> list[Pair]:
    """Digits against other images, and against one class that was not trained on."""
    own, capitals = digits[:COUNT], "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    letters = np.stack([letter(capitals[i % 26], 20 + i % 11) for i in range(COUNT)])[:, None]
    noise = rng.integers(0, 256, own.shape).astype(np.uint8)
    grey = np.zeros_like(own) + rng.integers(0, 256, (COUNT, 1, 1, 1)).astype(np.uint8)
    pairs = [
        Pair("mnist", "capital letters", True, own, letters),
        Pair("mnist", "noise", False, own, noise),
        Pair("mnist", "even grey", True, own, grey),
        Pair("mnist", "inverted digits", False, own, 255 - digits[COUNT : 2 * COUNT]),
    ]
    for digit, chooses in ((4, True), (1, False)):
        rest = digits[labels != digit][:COUNT]
        unseen = digits[labels == digit][:COUNT]
        pairs.append(Pair(f"mnist without {digit}", f"the {digit}", chooses, rest, unseen))
    return pairs


def colour_pairs(digits: Bytes, rng: np.random.Generator) -> list[Pair]:
    """Generated photos of one shape against other colour images."""
    own, more = generate(COUNT, seed=11), generate(COUNT, seed=12)
    pasted = more.copy()
    for image, other in zip(pasted, own, strict=True):
        y, x = rng.integers(0, SIDE - 10, 2)
        image[:, y : y + 10, x : x + 10] = other[:, 11:21, 11:21]
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    slopes, base = (
        rng.uniform(-100, 100, (2, COUNT, 3, 1, 1)),
        rng.uniform(60, 200, (COUNT, 3, 1, 1)),
    )
    smooth = (base + slopes[0] * (x - 0.5) + slopes[1] * (y - 0.5)).clip(0, 255).astype(np.uint8)
    share = np.pad(digits[:COUNT], ((0, 0), (0, 0), (2, 2), (2, 2))) / 255
    ink, paper = rng.integers(0, 256, (2, COUNT, 3, 1, 1))
    written = np.rint(paper + share * (ink - paper)).astype(np.uint8)
    noise = rng.integers(0, 256, own.shape).astype(np.uint8)
    return [
        Pair("shapes", "colour gradients without a shape", True, own, smooth),
        Pair("shapes", "with a piece of another pasted in", False, own, pasted),
        Pair("shapes", "digits in colour", False, own, written),
        Pair("shapes", "noise", True, own, noise),
    ]


def trained(folder: Path, name: str, data: str, data_dir: Path | None, **settings: object) -> Path:
    """The run of this name, trained if it is not there."""
    path = folder / name.replace(" ", "-")
    if not (path / HELD_OUT).exists():  # written when training ends
        list(vaecli.train(data, output=path, data_dir=data_dir, device="cpu", **settings))
    return path


def runs(folder: Path, data_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """Each model, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = catalogue.load("mnist", Reading(data_dir))
    yield "mnist", trained(folder, "mnist", "mnist", data_dir, epochs=5)
    for digit in (4, 1):
        path, parts = folder / f"without-{digit}.npz", {}
        for split, images in (("train", dataset.train), ("test", dataset.test)):
            parts[f"x_{split}"] = np.asarray(images.pixels[:])[images.labels != digit][:, 0]
        if not path.exists():
            np.savez(path, **parts)
        name = f"mnist without {digit}"
        yield name, trained(folder, name, str(path), folder, epochs=5)
    shapes = folder / "shapes.npz"
    if not shapes.exists():
        np.savez(shapes, x_train=generate(10_000, seed=0), x_test=generate(2000, seed=1))
    settings = {"arch": "conv", "likelihood": "logistic", "latent_dim": 64, "epochs": 8}
    yield "shapes", trained(folder, "shapes", str(shapes), folder, **settings)


def measured(run: Path, pair: Pair, samples: int) -> dict[str, dict[str, float]]:
    """AUROC and AUPRC of each score on a pair."""
    model, found = load_model(str(run)).model, dict[str, list[NDArray[np.float64]]]()
    for seed, pixels in ((1, pair.foreign_images), (2, pair.own_images)):
        images = Images(pixels)
        result = evaluate(model, images, seed=seed, importance_samples=samples)
        for name, score in alerts.SCORES.items():
            found.setdefault(name, []).append(score(result, images))
    measures: dict[str, Callable[..., float]] = {"AUROC": area_under_roc, "AUPRC": precision_area}
    return {
        name: {kind: round(measure(*values), 4) for kind, measure in measures.items()}
        for name, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--samples", type=int, default=calibration.SAMPLES, help="K of the likelihood"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scores.json"))
    options = parser.parse_args()
    test = catalogue.load("mnist", Reading(options.data_dir)).test
    digits, rng = np.asarray(test.pixels[:]), np.random.default_rng(0)
    pairs = digit_pairs(digits, np.asarray(test.labels), rng) + colour_pairs(digits, rng)
    rows = []
    for name, path in runs(options.folder, options.data_dir):
        for pair in (pair for pair in pairs if pair.run == name):
            scores = measured(path, pair, options.samples)
            row = {"run": name, "foreign": pair.foreign, "chooses": pair.chooses, **scores}
            print(json.dumps(row), flush=True)
            rows.append(row)
    means = {
        half: {
            score: round(
                float(np.mean([row[score]["AUROC"] for row in rows if row["chooses"] == chooses])),
                4,
            )
            for score in alerts.SCORES
        }
        for half, chooses in (("choosing", True), ("showing", False))
    }
    result = {"samples": options.samples, "rows": rows, "mean AUROC": means}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(means, indent=1))


if __name__ == "__main__":
    main()
