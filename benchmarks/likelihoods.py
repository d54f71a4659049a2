"""The four likelihoods side by side: train each for a few epochs, and draw them.

python benchmarks/likelihoods.py --data-dir DIR [--epochs 5] [--output docs/images/likelihoods.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sheet import write_sheet

import vaecli
from vaecli.data import catalogue
from vaecli.data.reading import Reading
from vaecli.evaluation.evaluate import evaluate
from vaecli.evaluation.generation import reconstruct, sample
from vaecli.evaluation.units import bits_per_dim
from vaecli.model.distribution import learned_scale
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.vae import TorchRunner
from vaecli.runs.load import load_model
from vaecli.training import loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("docs/images/likelihoods.png"))
    options = parser.parse_args()
    test = catalogue.load("mnist", Reading(options.data_dir)).test
    shown = next(test.first(12).parts())
    rows = {"test images": shown}
    print("| likelihood | test loss | distortion | rate | black image | white image | scale |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in LIKELIHOODS:
            output = Path(folder) / name
            events = vaecli.train(
                "mnist",
                data_dir=options.data_dir,
                output=output,
                likelihood=name,
                epochs=options.epochs,
                device="cpu",
            )
            last = next(event for event in events if isinstance(event, loop.Drawn))
            model = load_model(str(last.files[0].parent)).model
            result = evaluate(model, test, seed=0)
            rows[f"{name}: again"] = reconstruct(TorchRunner(model), shown)
            rows["samples" + " " * len(rows)] = sample(TorchRunner(model), len(shown), seed=0)
            extremes = np.array([0, 255], np.uint8).repeat(784).reshape(2, 1, 28, 28)
            black, white = evaluate(model, catalogue.Images(extremes), seed=0).losses.tolist()
            log_scale = model.decoder.log_scale
            scale = "" if log_scale is None else f"{float(learned_scale(log_scale).detach()):.4f}"
            if LIKELIHOODS[name].levels:
                scale += f" ({bits_per_dim(result.loss, 784):.3f} bits/dim)"
            print(
                f"| {name} | {result.loss:.2f} | {result.distortion:.2f} | {result.rate:.2f}"
                f" | {black:.1f} | {white:.1f} | {scale} |",
                flush=True,
            )
    write_sheet(options.output, rows)


if __name__ == "__main__":
    main()
