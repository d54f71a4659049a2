"""The time of `eval --importance-samples` beside that of its matrix products alone.

    python benchmarks/likelihood.py --data-dir DIR [--threads 2] [--rounds 7] [-n 128] [-K 5000]

The model is the default MLP, unfitted: the time does not depend on its weights.  The products are
those of its decoder for all N x K latents, in batches of as many, into kept memory.  Estimate and
products run in turn.  Writes `results/likelihood-THREADS.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from contenders import arrays
from speed import HERE, surroundings

from vaecli.config import ModelConfig
from vaecli.evaluation.likelihood_estimate import BATCH_SIZE, estimate
from vaecli.model.vae import VAE

BATCH = 2 * BATCH_SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("-K", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = ModelConfig(image_shape=(1, 28, 28))
    model = VAE(config).eval()
    _, test = arrays(options.data_dir)
    pixels = test[: options.n].copy()
    products = decoder_products(config, len(pixels) * options.K)
    rounds = [
        {"estimate": seconds(lambda: estimate(model, pixels, options.K, 0)), "products": timed}
        for timed in (seconds(products) for _ in range(1 + options.rounds))
    ][1:]
    ratios = [each["estimate"] / each["products"] for each in rounds]
    print(f"{options.threads} threads: {median(ratios):.2f} times the products")
    result = {
        **surroundings(options.threads, "cpu"),
        "images": len(pixels),
        "samples": options.K,
        "rounds": rounds,
    }
    path = HERE / "results" / f"likelihood-{options.threads}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def decoder_products(config: ModelConfig, latents: int) -> Callable[[], None]:
    """The matrix products that decoding so many latents takes."""
    widths = [config.latent_dim, *reversed(config.hidden), 28 * 28]
    layers = [
        (torch.randn(wide), torch.randn(wide, narrow).T, torch.empty(BATCH, wide))
        for narrow, wide in pairwise(widths)
    ]
    drawn = torch.randn(BATCH, config.latent_dim)

    @torch.inference_mode()
    def multiply() -> None:
        for _ in range(latents // BATCH):
            features = drawn
            for bias, weight, out in layers:
                features = torch.addmm(bias, features, weight, out=out)

    return multiply


def seconds(do: Callable[[], object]) -> float:
    """Wall time."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
