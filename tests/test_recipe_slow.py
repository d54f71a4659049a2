"""The numbers people will compare: the default recipe and the textbook's, on real MNIST."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from conftest import Vaecli, needs_mnist, real_mnist

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), needs_mnist]

TEXTBOOK = "--lr 1e-3 --schedule constant --output-bias zero".split()  # noqa: SIM905


def losses(vaecli: Vaecli, *options: str) -> list[float]:
    """Test loss after each epoch, nats per image."""
    folder = real_mnist()
    assert vaecli("train", "--data", "mnist", "--data-dir", folder, "-o", "run", *options).code == 0
    with Path("run/metrics.csv").open() as file:
        return [float(row["test_loss"]) for row in csv.DictReader(file)]


def test_the_default_recipe(vaecli: Vaecli) -> None:
    assert losses(vaecli)[-1] <= 101.5


def test_the_textbook_recipe_gives_the_textbook_s_losses(vaecli: Vaecli) -> None:
    found = losses(vaecli, *TEXTBOOK)
    # of the PyTorch example, measured
    for epoch, expected, within in ((1, 128.4, 2.0), (2, 116.3, 1.5), (10, 105.6, 0.7)):
        assert found[epoch - 1] == pytest.approx(expected, abs=within)
    assert found[19] == pytest.approx(104.0, abs=0.7)
