"""Tests of the drawn digits, on a few hundred of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from vaecli.data.named import digits


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


SHA256 = {
    "train": "92ca2b6cb82fcb06fc5ace4bb9fed9a1a1a5aa05ecf325387a4270339abd3121",
    "test": "a83a86bf5635dd80494657e3bfc6e51ea2205a8e1df09b76ee4c640f87ecd9b0",
}
"""Of pixels and labels; where one changes, `digits.VERSION` must too."""


def hashed(split: str) -> str:
    pixels, labels = digits.draw_digits(split)  # type: ignore[arg-type]
    return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()


def kinds_of_processor() -> dict[str, dict[str, str]]:
    """Environments in which numpy, its BLAS and torch take the paths of other processors."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(simd.get("found", []))}
    return {
        "no vector extensions": plain | {"ATEN_CPU_CAPABILITY": "default"},
        "Nehalem": {"OPENBLAS_CORETYPE": "Nehalem", "OMP_NUM_THREADS": "1"},
        "Haswell": {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"},
    }


@pytest.mark.parametrize("kind", kinds_of_processor())
def test_every_processor_draws_the_same_bytes(kind: str) -> None:
    program = "import test_digits; print(test_digits.hashed('test'))"
    environment = (
        os.environ | kinds_of_processor()[kind] | {"PYTHONPATH": os.path.dirname(__file__)}
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SHA256["test"]


def test_the_test_split_has_its_hash() -> None:
    assert hashed("test") == SHA256["test"]


@pytest.mark.slow
def test_the_training_split_has_its_hash() -> None:
    assert hashed("train") == SHA256["train"]


def test_progress_climbs_to_the_total() -> None:
    calls: list[tuple[int, int]] = []
    labels = np.zeros(50, np.uint8)
    digits._draw(np.random.default_rng(0), labels, lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (50, 50)
