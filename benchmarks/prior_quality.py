"""Samples of N(0, I) against samples of other priors: `python benchmarks/prior_quality.py`.

    python benchmarks/prior_quality.py --model runs/001-mnist-mlp --data-dir DATA
    python benchmarks/prior_quality.py --model runs/digits --learned runs/mixture runs/flow

Measured on N images of each kind, and on test images and their reconstructions to compare with:

- a small convolutional classifier trained on the training images: its mean confidence (the largest
  of its ten probabilities), and the share of images it is at least 90 % sure of;
- class balance: exp(entropy) of its mean prediction, 10 where all classes are equally frequent;
- nearest neighbour: the Euclidean distance (pixels in [0, 1]) to the closest training image, its
  median, and the share of images closer than 99 % of the test images are. A model that repeats
  its training images has a share far above the 1 % of the test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaecli.data import catalogue
from vaecli.data.dataset import Images
from vaecli.data.pixels import Bytes
from vaecli.data.reading import Reading
from vaecli.evaluation import generation, latent_space, mixture
from vaecli.model.vae import TorchRunner, as_float
from vaecli.runs.load import load_model


def train_classifier(images: Images, epochs: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    steps = epochs * (len(images) // 256)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    assert images.labels is not None
    labels = torch.as_tensor(images.labels).long()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(256):
            if len(batch) < 256:
                continue
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(as_float(images.pixels_at(batch))), labels[batch]
            )
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, pixels: Bytes) -> Tensor:
    batches = torch.as_tensor(pixels).split(1000)
    parts = [model(as_float(part)).softmax(1) for part in batches]
    return torch.cat(parts)


@torch.inference_mode()
def nearest(pixels: Bytes, training: Bytes) -> Tensor:
    """Distance of each image (N, ...) to the closest of the training images, (N,)."""
    known = as_float(torch.as_tensor(training)).flatten(1)
    squares = known.square().sum(1)
    result = []
    for part in as_float(torch.as_tensor(pixels)).flatten(1).split(500):
        products = part.square().sum(1)[:, None] + squares - 2 * part @ known.T
        result.append(products.min(1).values.clamp(min=0).sqrt())
    return torch.cat(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="latest")
    parser.add_argument("--learned", nargs="*", default=[], help="runs that learned their prior")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("-n", type=int, default=5000)
    arguments = parser.parse_args()
    loaded = load_model(arguments.model)
    assert loaded.run is not None
    reading = Reading(arguments.data_dir, download=False, report=print)
    sets = catalogue.load(loaded.run.config.data.name, reading)
    runner, count, seed = TorchRunner(loaded.model), arguments.n, loaded.seed(None)
    classifier = train_classifier(sets.train)
    test = sets.test.first(count)
    known, shown = np.asarray(sets.train.pixels), np.asarray(test.pixels)
    accuracy = (predict(classifier, shown).argmax(1).numpy() == test.labels).mean()
    print(f"classifier: {100 * accuracy:.1f} % of the test images right")
    embedding = latent_space.embed(runner, sets.train)
    kinds = {
        "test images": shown,
        "their reconstructions": generation.reconstruct(runner, shown),
        "normal prior": generation.sample(runner, count, seed=seed),
    }
    for components in (1, 3, 10, 30, 100):
        fitted = mixture.fit(embedding, sizes=[components], seed=seed).mixture
        kinds[f"mixture of {components}"] = generation.decode(runner, fitted.draw(count, seed=seed))
    for name in arguments.learned:
        other = load_model(name)
        kind = f"learned {other.config.prior}"
        kinds[kind] = generation.sample(TorchRunner(other.model), count, seed=seed)
    close = None
    print("| images | confidence | at least 90 % sure | classes | nearest | too close |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, pixels in kinds.items():
        probabilities = predict(classifier, pixels)
        sure = probabilities.max(1).values
        mean = probabilities.mean(0)
        classes = torch.exp(-(mean * mean.log()).sum())
        distance = nearest(pixels, known)
        close = distance.quantile(0.01) if close is None else close
        print(
            f"| {name} | {100 * sure.mean():.1f} % | {100 * (sure >= 0.9).float().mean():.1f} %"
            f" | {classes:.2f} | {distance.median():.2f}"
            f" | {100 * (distance < close).float().mean():.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
