"""What known slips in VAE code do to the numbers of one trained run.

python benchmarks/slips.py RUN --data-dir DIR

Slips that change training are other commands: docs/maths.md names them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional

from vaecli.data import catalogue
from vaecli.data.reading import Reading
from vaecli.evaluation.evaluate import evaluate
from vaecli.evaluation.likelihood_estimate import batches
from vaecli.model.bounds import elbo_terms
from vaecli.model.vae import as_float, reparameterize
from vaecli.noise import NormalNoise
from vaecli.runs.load import load_model


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    dataset = catalogue.load("mnist", Reading(options.data_dir))
    model = load_model(str(options.run)).model
    test = evaluate(model, dataset.test, seed=0)
    train = evaluate(model, dataset.train, seed=0)
    print(f"loss {test.loss:.3f} = distortion {test.distortion:.3f} + rate {test.rate:.3f}")
    print(f"judged on training images: {train.loss:.3f}")

    means = [float(test.losses[start : start + 256].mean()) for start in range(0, 10_000, 256)]
    print(f"mean of batch means (256, the last one 16): {sum(means) / len(means):.3f}")

    images = as_float(torch.as_tensor(dataset.test.pixels[:]))
    noise = NormalNoise(model.config.latent_dim, seed=0, purpose="evaluation")
    still, errors = [], torch.zeros(2)
    for start, batch in batches(dataset.test.pixels, 500):
        x = as_float(batch)
        mean, log_variance = model.encoder(x)
        z = reparameterize(mean, log_variance, noise.rows(start, start + len(x)))
        decoded = model.decoder(mean)
        still.append(elbo_terms(x, decoded, mean, log_variance, *model.likelihood).loss)
        for index, logits in enumerate((decoded, model.decoder(z))):
            errors[index] += (torch.sigmoid(logits) - x).square().sum()
    print(f"noise left out of the test loss: {float(torch.cat(still).mean()):.3f}")
    errors /= images.numel()
    print(f"squared error of reconstructions: {errors[0]:.5f}, with noise {errors[1]:.5f}")

    with torch.inference_mode(False), torch.enable_grad():
        white = torch.ones(1)
        for name in ("sigmoid, then BCE", "on logits"):
            logit = torch.full((1,), -200.0, requires_grad=True)
            if name == "on logits":
                value = functional.binary_cross_entropy_with_logits(logit, white)
            else:
                value = functional.binary_cross_entropy(torch.sigmoid(logit), white)
            (gradient,) = torch.autograd.grad(value, logit)
            found = float(value.detach()), float(gradient)
            print(f"white pixel at logit -200, {name}: {found[0]:g} nats, gradient {found[1]:g}")


if __name__ == "__main__":
    main()
