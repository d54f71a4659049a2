"""How far samples are from images that were held out, without any download.

    python benchmarks/kid.py --data FOLDER --model RUN [--model RUN ...] [-n 4000]
        [--features FILE.pt] [--output FILE.json] [--sheet FILE.png]

The kernel distance (KID, Binkowski et al. 2018, arXiv:1801.01401) is the squared maximum mean
discrepancy of two sets under the kernel (a.b / d + 1)^3 on features of d numbers.  The features are
those of a small convolutional network that this script trains on the labels of the training images;
papers use a network trained on ImageNet, so the figures compare with one another only.  The first
line is training images against held-out ones, as many disjoint sets as there are: the distance
that is not there, and its noise.

For each run: reconstructions of the held-out images, samples of the prior at three temperatures,
and of `--prior gmm`, that with drawn pixels too; the same of `--prior flow-matching` where the run
keeps one, which `sample` fits.  "Too close" is the share of images that are nearer to a training
image, in pixels, than 99 % of the held-out ones are.  By these figures of CIFAR-10 the kind of
network of flow matching was chosen (docs/convolutions.md), and nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prior_quality import nearest
from sheet import write_sheet
from torch import Tensor, nn

from vaecli.data import catalogue
from vaecli.data.dataset import Images
from vaecli.data.pixels import Bytes
from vaecli.data.reading import Reading
from vaecli.evaluation import generation, latent_space, mixture
from vaecli.model.vae import TorchRunner, as_float
from vaecli.runs import flow_prior
from vaecli.runs.load import load_model

BATCH, TEMPERATURES = 250, (1.0, 0.85, 0.7)


class Features(nn.Module):
    """Images (B, C, H, W) in [0, 1] to 128 features, and to logits of the classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._stage(channels, 32, 1),
            *self._stage(32, 64, 2),
            *self._stage(64, 64, 1),
            *self._stage(64, 128, 2),
            *self._stage(128, 128, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.logits = nn.Linear(128, classes)

    @staticmethod
    def _stage(before: int, after: int, stride: int) -> Iterator[nn.Module]:
        yield nn.Conv2d(before, after, 3, stride, 1, bias=False)
        yield nn.BatchNorm2d(after)
        yield nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        logits: Tensor = self.logits(self.features(images))
        return logits


def trained(images: Images, epochs: int) -> Features:
    """The network, trained on the labels with flips and small shifts."""
    torch.manual_seed(0)
    labels = torch.as_tensor(images.labels).long()
    network = Features(images.pixels.shape[1], int(labels.max()) + 1)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    for epoch in range(epochs):
        for places in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            batch = as_float(images.pixels_at(places))
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            down, right = torch.randint(-3, 4, (2,)).tolist()
            batch = batch.roll((down, right), (2, 3))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(batch), labels[places])
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"features: epoch {epoch + 1} of {epochs}, loss {loss:.3f}", flush=True)
    return network.eval()


@torch.inference_mode()
def features(network: Features, pixels: Bytes) -> Tensor:
    """(N, 128) float64 of images (N, C, H, W) uint8."""
    batches = torch.as_tensor(np.asarray(pixels)).split(BATCH)
    return torch.cat([network.features(as_float(batch)) for batch in batches]).double()


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy, of (N, d) and (M, d)."""
    width = first.shape[1]

    def within(values: Tensor) -> Tensor:
        kernel = (values @ values.T / width + 1) ** 3
        return (kernel.sum() - kernel.trace()) / (len(values) * (len(values) - 1))

    across = ((first @ second.T / width + 1) ** 3).mean()
    return float(within(first) + within(second) - 2 * across)


def kinds(model: str, train: Images, shown: Bytes) -> Iterator[tuple[str, Bytes]]:
    """What a run makes, by name: reconstructions of `shown`, and as many samples of each kind."""
    loaded = load_model(model)
    runner, count = TorchRunner(loaded.model), len(shown)
    yield (
        "reconstructions",
        np.concatenate(
            [generation.reconstruct(runner, part) for part in np.array_split(shown, count // BATCH)]
        ),
    )
    for temperature in TEMPERATURES:
        drawn = generation.sample(runner, count, seed=0, temperature=temperature)
        yield f"samples, temperature {temperature:g}", drawn
    fitted = mixture.fit(latent_space.embed(runner, train, draw_seed=0), seed=0).mixture
    latents = fitted.draw(count, seed=0)
    yield "--prior gmm", generation.decode(runner, latents)
    drawn = generation.decode(runner, latents, pixel_seed=0)
    yield "--prior gmm --draw-pixels", drawn
    flow = None if loaded.run is None else flow_prior.read(loaded.run, loaded.weights)
    if flow is not None:
        latents = flow.draw(count, seed=0)
        yield "--prior flow-matching", generation.decode(runner, latents)
        drawn = generation.decode(runner, latents, pixel_seed=0)
        yield "--prior flow-matching --draw-pixels", drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("-n", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=6, help="of the network of the features")
    parser.add_argument("--features", type=Path, help="keep the network in this file")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    sets = catalogue.load(options.data, Reading(options.data_dir, report=print))
    if options.features and options.features.exists():
        weights = torch.load(options.features, weights_only=True)
        network = Features(sets.train.pixels.shape[1], len(weights["logits.bias"]))
        network.load_state_dict(weights)
        network.eval()
    else:
        network = trained(sets.train, options.epochs)
        if options.features:
            torch.save(network.state_dict(), options.features)
    held_out = sets.test.first(options.n)
    shown = np.asarray(held_out.pixels[:])
    with torch.inference_mode():
        guesses = torch.cat(
            [network(as_float(part)) for part in torch.as_tensor(shown).split(BATCH)]
        )
    accuracy = float((guesses.argmax(1).numpy() == held_out.labels).mean())
    print(f"features: {100 * accuracy:.1f} % of the held-out images right", flush=True)
    target = features(network, shown)
    training = np.asarray(sets.train.pixels[:])
    close = nearest(shown, training).quantile(0.01)
    rows: list[dict[str, Any]] = []
    pictures = {"held out": shown[:12]}

    def add(model: str, kind: str, pixels: Bytes) -> None:
        distance = kernel_distance(features(network, pixels), target)
        share = float((nearest(pixels, training) < close).float().mean())
        name = Path(model).name
        rows.append({"model": name, "images": kind, "kid": distance, "too_close": share})
        print(f"| {name} | {kind} | {distance:.4f} | {100 * share:.1f} % |", flush=True)

    several = features(network, training).split(options.n)[: len(training) // options.n]
    noise = torch.tensor([kernel_distance(each, target) for each in several])
    print(f"noise: {noise.mean():.5f}, standard deviation {noise.std():.5f} of {len(several)} sets")
    for model in options.model:
        for kind, pixels in kinds(model, sets.train, shown):
            add(model, kind, pixels)
            pictures[f"{Path(model).name}: {kind}".replace("temperature", "t")] = pixels[:12]
    if options.output:
        found = {"n": len(shown), "accuracy": accuracy, "noise": noise.tolist(), "rows": rows}
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    if options.sheet:
        write_sheet(options.sheet, pictures)


if __name__ == "__main__":
    main()
