"""How well the built-in digits stand in for handwriting.

    python benchmarks/digits.py --data-dir DIR [--sheet FILE.png]

Trains a small convolutional classifier on the drawn digits alone, then lets it read the real
MNIST test set, which it has never seen.  `--sheet` writes twenty drawn digits of each class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vaecli.data import catalogue
from vaecli.data.dataset import Images
from vaecli.data.reading import Reading
from vaecli.model.vae import as_float
from vaecli.pictures.grid import Bytes, encode_png, make_grid
from vaecli.system import files

EPOCHS, BATCH = 2, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    drawn = catalogue.load("digits", Reading())
    if options.sheet:
        files.atomic_write(options.sheet, encode_png(sheet(drawn.train)))
    classifier = train(drawn.train)
    mnist = catalogue.load("mnist", Reading(options.data_dir, download=False))
    print(f"drawn test digits: {accuracy(classifier, drawn.test):.1%}")
    print(f"MNIST test digits: {accuracy(classifier, mnist.test):.1%}")


def train(images: Images) -> nn.Module:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.AdamW(classifier.parameters())
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    labels = labels_of(images)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            loss = functional.cross_entropy(
                classifier(as_float(images.pixels_at(chosen))), labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Images) -> float:
    """Share of images read right."""
    read = [
        classifier(as_float(part)).argmax(1) for part in torch.as_tensor(images.pixels).split(1000)
    ]
    return float((torch.cat(read) == labels_of(images)).float().mean())


def sheet(images: Images) -> Bytes:
    """Twenty images of each class in a row."""
    rows = [np.asarray(images.pixels)[images.labels == digit][:20] for digit in range(10)]
    return make_grid(np.concatenate(rows), columns=20, scale=1)


def labels_of(images: Images) -> Tensor:
    """Labels (N,) int64."""
    assert images.labels is not None
    return torch.as_tensor(images.labels).long()


if __name__ == "__main__":
    main()
