"""What `mean + log_variance * noise` costs: trained beside the right rule, and judged honestly.

The slip draws z from N(mean, log_variance^2) while its KL is that of N(mean, exp(log_variance)).
Its own printed loss is therefore no bound; the honest bound is that of the distribution it
draws from, which is the right rule with the log variance log(log_variance^2).

python benchmarks/reparameterization.py --data-dir DIR [--epochs 10]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch
from sheet import write_sheet
from torch import Tensor

import vaecli
from vaecli.data import catalogue
from vaecli.data.dataset import Images
from vaecli.data.reading import Reading
from vaecli.evaluation.evaluate import evaluate
from vaecli.evaluation.generation import reconstruct, sample
from vaecli.model import vae as model
from vaecli.model.vae import VAE, TorchRunner
from vaecli.runs.load import load_model
from vaecli.training import loop


def slip(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + log_variance * noise


class Honest(torch.nn.Module):
    """The encoder of a model trained with the slip, saying what is really drawn."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and the log of the variance that the slip draws with."""
        mean, log_variance = self.encoder(images)
        return mean, 2 * torch.log(log_variance.abs().clamp(min=1e-12))


def train(folder: Path, options: argparse.Namespace) -> VAE:
    events = vaecli.train(
        "mnist", data_dir=options.data_dir, output=folder, epochs=options.epochs, device="cpu"
    )
    for event in events:
        if isinstance(event, loop.Finished):
            break
    return load_model(str(folder)).model


def row(name: str, vae: VAE, test: Images, samples: int) -> None:
    result = evaluate(vae, test, seed=0)
    few = evaluate(vae, test.first(1000), seed=0, importance_samples=samples)
    print(
        f"| {name} | {result.loss:.2f} | {result.distortion:.2f} | {result.rate:.2f}"
        f" | {few.nll:.2f} ± {few.nll_se:.2f} | {few.ess:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("docs/images/reparameterization.png"))
    options = parser.parse_args()
    test = catalogue.load("mnist", Reading(options.data_dir)).test
    print("| trained and judged with | loss | distortion | rate | NLL, 1,000 images | ESS |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        right = train(Path(folder) / "right", options)
        row("the right rule", right, test, options.samples)
        with patch.object(model, "reparameterize", slip):
            wrong = train(Path(folder) / "slip", options)
            printed = evaluate(wrong, test, seed=0)
            print(
                f"| the slip, its own printed loss | {printed.loss:.2f} | {printed.distortion:.2f}"
                f" | {printed.rate:.2f} | - | - |"
            )
        shown = next(test.first(12).parts())
        rows = {"test images": shown}
        for name, vae in (("right", right), ("slip", wrong)):
            rows[f"{name}: again"] = reconstruct(TorchRunner(vae), shown)
            rows[f"{name}: samples"] = sample(TorchRunner(vae), 12, seed=0)
        wrong.encoder = Honest(wrong.encoder)  # type: ignore[assignment]
        row("the slip, honest bound of what it draws", wrong, test, options.samples)
    write_sheet(options.output, rows)


if __name__ == "__main__":
    main()
