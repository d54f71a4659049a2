"""Tests of the drawn digits, on a few hundred of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vaecli.data import digits


def draw(seed: int, count: int = 300) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    labels = (np.arange(count) % 10).astype(np.uint8)
    return digits._draw(np.random.default_rng(seed), labels), labels


def test_the_same_stream_draws_the_same_images() -> None:
    assert np.array_equal(draw(1)[0], draw(1)[0])
    assert not np.array_equal(draw(1)[0], draw(2)[0])


def test_images_are_composed_like_mnist() -> None:
    pixels, _ = draw(0)
    assert pixels.shape == (300, 1, 28, 28)
    assert pixels.dtype == np.uint8
    images = pixels[:, 0].astype(float)
    assert not images[:, [0, -1]].any()
    assert not images[:, :, [0, -1]].any()
    mass = images.sum(axis=(1, 2))
    rows = (images.sum(axis=2) @ np.arange(28)) / mass
    columns = (images.sum(axis=1) @ np.arange(28)) / mass
    assert np.abs(rows - 13.5).max() < 1
    assert np.abs(columns - 13.5).max() < 1
    longer = [max(np.ptp(axis) + 1 for axis in np.nonzero(image > 127)) for image in images]
    assert 17 <= np.quantile(longer, 0.05) <= np.quantile(longer, 0.95) <= 22
    assert 0.11 < images.mean() / 255 < 0.15


def test_images_of_a_class_differ() -> None:
    pixels, labels = draw(0)
    for digit in range(10):
        of_digit = pixels[labels == digit].reshape(30, -1)
        assert len(np.unique(of_digit, axis=0)) == 30


def test_splits_are_sized_balanced_repeatable_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_SPLITS", {"train": (0, 1200), "test": (1, 600)})
    train, train_labels = digits.draw_digits("train")
    test, test_labels = digits.draw_digits("test")
    assert train.shape == (1200, 1, 28, 28)
    assert test.shape == (600, 1, 28, 28)
    assert train_labels.dtype == test_labels.dtype == np.uint8
    assert np.bincount(train_labels, minlength=10).min() > 60
    assert np.bincount(test_labels, minlength=10).min() > 30
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    again, again_labels = digits.draw_digits("test")
    assert np.array_equal(test, again)
    assert np.array_equal(test_labels, again_labels)


def test_full_sizes() -> None:
    assert {split: count for split, (_, count) in digits._SPLITS.items()} == {
        "train": 60_000,
        "test": 10_000,
    }


def test_progress_climbs_to_the_total() -> None:
    calls: list[tuple[int, int]] = []
    labels = np.zeros(50, np.uint8)
    digits._draw(np.random.default_rng(0), labels, lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (50, 50)
