"""grid on small colour images, with the default likelihood, and another network beside it.

    python benchmarks/colour.py [--epochs 10] [--images 10000] [--beside conv] [--runs DIR]
        [--output FILE.png]

The images are generated: a shape (disc, ring, box, triangle, cross or star) of one colour or
texture on a background of another, at 32x32.  grid is trained with its default settings, and the
other (conv with 64 latents) for as many epochs as fit into the time that took, test passes
included.  --prior flow-matching is fitted to grid's latents, which takes about as long again.
Runs that are kept with --runs are continued where they were.
"""

from __future__ import annotations

import argparse
import colorsys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sheet import write_sheet

import vaecli
from vaecli.data.dataset import Images
from vaecli.data.pixels import to_uint8
from vaecli.evaluation import mixture
from vaecli.evaluation.generation import decode, reconstruct, sample
from vaecli.evaluation.latent_space import embed
from vaecli.evaluation.units import bits_per_dim
from vaecli.model.vae import TorchRunner
from vaecli.runs.load import load_model
from vaecli.runs.metrics import EpochMetrics
from vaecli.training import loop

SIDE, TEST, LATENTS = 32, 2000, 64
Array = NDArray[np.float64]


def draw(rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image, (3, 32, 32): colours, textures, one shape, a little shade and grain."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) * 2 - 1
    angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform(-0.35, 0.35, 2)
    u = np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])
    v = np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])
    hue = rng.uniform()
    behind = _paint(rng, hue, x, y)
    front = _paint(rng, hue + rng.uniform(0.25, 0.75), u, v)
    inside = np.clip(0.5 - _distance(rng, u, v, rng.uniform(0.45, 0.75)) * SIDE / 2, 0, 1)
    image = behind + inside * (front - behind)
    slope = rng.normal(0, 0.08, 2)
    image = image * (1 + slope[0] * x + slope[1] * y) + rng.normal(0, 0.008, image.shape)
    return (255 * image.clip(0, 1)).round().astype(np.uint8)


def _paint(rng: np.random.Generator, hue: float, x: Array, y: Array) -> Array:
    """A plain colour, or two of neighbouring hue as gradient, stripes, checks or dots."""
    first = _colour(hue, rng.uniform(0.5, 1), rng.uniform(0.3, 1))
    second = _colour(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.2, 0.8), rng.uniform(0.3, 1))
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.8, 1.2)
    a, b = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    a, b = 2 * np.pi * a / period, 2 * np.pi * b / period
    share = [
        np.zeros_like(x),
        np.clip(0.5 + 0.1 * a, 0, 1),
        0.5 + 0.5 * np.tanh(3 * np.sin(a)),
        0.5 + 0.5 * np.tanh(4 * np.sin(a) * np.sin(b)),
        0.5 + 0.5 * np.tanh(4 * (np.cos(a) + np.cos(b) - 0.6)),
    ][rng.choice(5, p=(0.45, 0.25, 0.12, 0.1, 0.08))]
    return first + share * (second - first)


def _colour(hue: float, saturation: float, value: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)).reshape(3, 1, 1)


def _distance(rng: np.random.Generator, u: Array, v: Array, size: float) -> Array:
    """Signed distance (roughly) to the border of a shape, negative inside."""
    radius, turn = np.hypot(u, v), np.arctan2(v, u)
    return [
        radius - size,
        np.abs(radius - size) - 0.3 * size,
        np.maximum(np.abs(u), np.abs(v)) - 0.8 * size,
        np.maximum(0.87 * np.abs(u) - 0.5 * v, v) - 0.55 * size,
        np.minimum(np.maximum(np.abs(u), 3 * np.abs(v)), np.maximum(3 * np.abs(u), np.abs(v)))
        - size,
        radius - size * (1 + 0.35 * np.cos(5 * turn)),
    ][rng.integers(6)]


def generate(count: int, seed: int) -> NDArray[np.uint8]:
    """A set of such images, (count, 3, 32, 32)."""
    rng = np.random.default_rng(seed)
    return np.stack([draw(rng) for _ in range(count)])


def train(folder: Path, arch: str, epochs: int) -> list[EpochMetrics]:
    """Train with default settings in `folder`; the metrics of all epochs."""
    settings: dict[str, Any] = {"arch": arch, "epochs": epochs, "data_dir": folder}
    if arch == "conv":
        settings["latent_dim"] = LATENTS
    data, output = str(folder / "colour.npz"), folder / f"{arch}-{epochs}"
    events = vaecli.train(data, output=output, device="cpu", **settings)
    return list(next(event.metrics for event in events if isinstance(event, loop.Finished)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--beside", choices=("conv", "mlp"), help="trained for the same time")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images/colour.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        compare(folder, options.epochs, options.images, options.output, options.beside)


def compare(folder: Path, epochs: int, images: int, output: Path, beside: str | None) -> None:
    data, test = folder / "colour.npz", generate(TEST, seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        np.savez(data, x_train=generate(images, seed=0), x_test=test)
    training = np.load(data)["x_train"]
    rows = {"test images": test[:12]}
    print("| --arch | parameters | epochs | seconds | test loss | bits/dim |")
    print("| --- | --- | --- | --- | --- | --- |")
    counts = {"grid": epochs}
    if beside:
        seconds = sum(row.seconds for row in train(folder, "grid", epochs))
        counts[beside] = round(seconds / min(row.seconds for row in train(folder, beside, 2)))
    for arch, count in counts.items():
        metrics = train(folder, arch, count)
        model = load_model(str(folder / f"{arch}-{count}")).model
        bits = bits_per_dim(metrics[-1].test_loss, model.config.pixels)
        print(
            f"| {arch} | {sum(p.numel() for p in model.parameters()):,} | {count}"
            f" | {sum(row.seconds for row in metrics):.0f} | {metrics[-1].test_loss:.1f}"
            f" | {bits:.3f} |",
            flush=True,
        )
        runner = TorchRunner(model)
        prior = mixture.fit(embed(runner, Images(training), draw_seed=0), seed=0).mixture
        rows[f"{arch}: reconstructions"] = reconstruct(runner, test[:12])
        rows[f"{arch}: samples"] = sample(runner, 12, seed=0)
        drawn = decode(runner, prior.draw(24, seed=0))
        rows[f"{arch}: --prior gmm"], rows[" " * len(rows)] = drawn[:12], drawn[12:]
        if arch == "grid":
            name, more = "flow-matching", {"data_dir": folder, "download": False}
            run = vaecli.load(folder / f"{arch}-{count}", device="cpu")
            drawn = to_uint8(run.sample(24, prior=name, seed=0, **more).numpy())
            rows[f"{arch}: --prior {name}"], rows[" " * len(rows)] = drawn[:12], drawn[12:]
    write_sheet(output, rows)


if __name__ == "__main__":
    main()
