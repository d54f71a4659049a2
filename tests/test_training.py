from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaecli.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from vaecli.data import labels
from vaecli.data.dataset import Dataset, Images
from vaecli.errors import DivergedError
from vaecli.evaluation.evaluate import evaluate
from vaecli.runs.directory import METRICS, WEIGHTS, Run
from vaecli.runs.load import load_model
from vaecli.runs.metrics import EpochMetrics
from vaecli.training import loop
from vaecli.training.events import Drawn, EpochEnd, Event, Started, Stopped
from vaecli.training.schedule import learning_rate

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int, side: int = 8, generator: torch.Generator = GENERATOR) -> Images:
    """Blobs: a bright square at one of four places, on black."""
    pixels, half = np.zeros((count, 1, side, side), np.uint8), side // 2
    labels = torch.randint(0, 4, (count,), generator=generator).numpy()
    for index, label in enumerate(labels.tolist()):
        row, column = half * (label // 2), half * (label % 2)
        pixels[index, 0, row : row + half, column : column + half] = 200
    return Images(pixels, labels)


DATASET = Dataset("blobs", images(70), images(21))


def make_run(
    path: Path,
    dataset: Dataset = DATASET,
    likelihood: Any = "bernoulli",
    arch: Any = "mlp",
    condition: Any = "none",
    **settings: object,
) -> Run:
    config = RunConfig(
        model=ModelConfig(
            image_shape=dataset.image_shape,
            arch=arch,
            hidden=(16,),
            latent_dim=2,
            likelihood=likelihood,
            condition=condition,
            **(labels.condition(dataset) if condition == "labels" else {}),  # type: ignore[arg-type]
        ),
        training=TrainConfig(**{"epochs": 3, "batch_size": 16, **settings}),  # type: ignore[arg-type]
        data=DataConfig(
            name=dataset.name,
            fingerprint=dataset.fingerprint(),
            n_train=len(dataset.train),
            n_test=len(dataset.test),
        ),
        environment={},
    )
    run = Run(path, config)
    with run.locked():
        run.write_config()
    return run


def make_finished(path: Path, **settings: Any) -> Run:
    run = make_run(path, **settings)
    finish(run)
    return run


def finish(run: Run, dataset: Dataset = DATASET) -> list[Event]:
    return list(loop.train(run, dataset))


def rows(run: Run) -> list[dict[str, str]]:
    with (run.path / METRICS).open() as file:
        return list(csv.DictReader(file))


def untimed(row: dict[str, str]) -> list[str]:
    return [value for name, value in row.items() if name not in ("images_per_second", "seconds")]


def test_training_lowers_the_loss_and_tells_its_events(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=30, lr=0.01)
    events = finish(run)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Drawn)
    assert all(path.is_file() for path in events[-1].files)
    losses = [e.metrics.test_loss for e in events if isinstance(e, EpochEnd)]
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]
    assert [int(row["epoch"]) for row in rows(run)] == list(range(1, 31))
    assert [*rows(run)[0], "held_out_loss"] == list(EpochMetrics.__dataclass_fields__)


def test_the_last_row_is_what_eval_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    finish(run)
    loaded = load_model(str(run.path))
    result = evaluate(loaded.model, DATASET.test, seed=0)
    last = rows(run)[-1]
    assert last["test_loss"] == f"{result.loss:.6f}"
    assert last["test_distortion"] == f"{result.distortion:.6f}"
    assert last["test_rate"] == f"{result.rate:.6f}"


def test_train_loss_is_the_mean_over_all_images_short_batch_included(tmp_path: Path) -> None:
    """With a vanishing learning rate, the epoch's loss is that of the initial model."""
    run = make_run(tmp_path / "run", epochs=1, lr=1e-30, schedule="constant")
    finish(run)
    model = loop.initial_model(run.config, DATASET.train)
    rate = evaluate(model, DATASET.train, seed=0).rate  # needs no noise: it must agree exactly
    assert float(rows(run)[0]["train_rate"]) == pytest.approx(rate, abs=2e-6)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(index), seed=seed) for index, seed in enumerate((5, 5, 6))]
    for run in runs:
        finish(run)
    first, second, third = ((run.path / WEIGHTS).read_bytes() for run in runs)
    assert first == second
    assert first != third
    assert [untimed(row) for row in rows(runs[0])] == [untimed(row) for row in rows(runs[1])]


@pytest.mark.parametrize("stop_after", [1, 4, 5, 6, 10, 14])
def test_stopped_and_continued_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    straight, broken = make_run(tmp_path / "straight"), make_run(tmp_path / "broken")
    finish(straight)
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == stop_after

    events = list(loop.train(broken, DATASET, should_stop=should_stop))
    assert isinstance(events[-1], Stopped)
    finish(broken)
    assert (straight.path / WEIGHTS).read_bytes() == (broken.path / WEIGHTS).read_bytes()
    assert [untimed(row) for row in rows(straight)] == [untimed(row) for row in rows(broken)]


SETTINGS: list[dict[str, Any]] = [
    {"importance_samples": 4, "binarize": "dynamic", "warmup_epochs": 2},
    {"beta": 2.0, "free_bits": 0.1, "binarize": "static"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_objective_continues_exactly(tmp_path: Path, settings: dict[str, Any]) -> None:
    straight = make_run(tmp_path / "straight", **settings)
    broken = make_run(tmp_path / "broken", **settings)
    finish(straight)
    steps = iter(range(100))
    list(loop.train(broken, DATASET, should_stop=lambda: next(steps) == 6))
    finish(broken)
    assert (straight.path / WEIGHTS).read_bytes() == (broken.path / WEIGHTS).read_bytes()
    assert [untimed(row) for row in rows(straight)] == [untimed(row) for row in rows(broken)]


def test_the_objective_column_is_what_was_optimised(tmp_path: Path) -> None:
    """Weights that hardly move: objective = distortion + beta * rate, the warm-up's mean beta."""
    settings = {"lr": 1e-30, "schedule": "constant", "epochs": 2, "batch_size": 35}
    plain = rows(make_finished(tmp_path / "plain", **settings))
    weighted = rows(make_finished(tmp_path / "beta", **settings, beta=3.0, warmup_epochs=1))
    for index, beta in ((0, 0.75), (1, 3.0)):  # two steps an epoch: 0 and 1/2, then 1 and 1
        distortion, rate = (float(plain[index][f"train_{n}"]) for n in ("distortion", "rate"))
        assert float(weighted[index]["train_loss"]) == pytest.approx(distortion + rate, abs=1e-5)
        # the rates of the two halves of an epoch are not quite equal
        expected = pytest.approx(distortion + beta * rate, rel=1e-3)
        assert float(weighted[index]["objective"]) == expected
        assert plain[index]["objective"] == plain[index]["train_loss"]


def test_the_importance_bound_does_not_depend_on_how_a_batch_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(make_finished(tmp_path / "whole", importance_samples=6))
    monkeypatch.setattr("vaecli.training.objective.PASS_VALUES", 5 * 6 * 64)
    parts = rows(make_finished(tmp_path / "parts", importance_samples=6))
    for one, other in zip(whole, parts, strict=True):
        for name in ("objective", "train_loss", "test_loss"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4)
    assert float(whole[-1]["objective"]) < float(whole[-1]["train_loss"])


@pytest.mark.parametrize("likelihood", ["continuous-bernoulli", "gaussian", "logistic"])
def test_every_likelihood_trains_on_all_black_and_all_white(
    tmp_path: Path, likelihood: str
) -> None:
    for level in (0, 255):
        plain = Images(torch.full((40, 1, 8, 8), level, dtype=torch.uint8))
        dataset = Dataset("plain", plain, plain)
        run = make_run(tmp_path / str(level), dataset, likelihood=likelihood, epochs=30)
        finish(run, dataset)
        losses = [float(row["test_loss"]) for row in rows(run)]
        assert all(map(math.isfinite, losses))
        assert losses[-1] < losses[0]


def test_divergence_is_an_error_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=50, lr=1e30, schedule="constant")
    with pytest.raises(DivergedError, match=r"epoch \d+"):
        finish(run)
    if run.committed:
        model = load_model(str(run.path)).model
        assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("count", [1, 5, 16, 17])
def test_any_number_of_images_trains(tmp_path: Path, count: int) -> None:
    small = Dataset("blobs", DATASET.train.first(count), DATASET.test.first(1))
    run = make_run(tmp_path / "run", small)
    finish(run, small)
    assert len(rows(run)) == 3


def test_schedules() -> None:
    def rates(schedule: str, total: int = 100) -> list[float]:
        config = TrainConfig(lr=2.0, schedule=schedule)  # type: ignore[arg-type]
        return [learning_rate(step, total, config) for step in range(total)]

    assert set(rates("constant")) == {2.0}
    for schedule in ("linear", "cosine"):
        values = rates(schedule)
        peak = values.index(max(values))
        assert values[peak] == pytest.approx(2.0)
        assert values[: peak + 1] == sorted(values[: peak + 1])
        assert values[peak:] == sorted(values[peak:], reverse=True)
        assert 0 < values[-1] < 0.05
        assert len(rates(schedule, 1)) == 1
        for total, warmup in ((40, 10), (1000, 100), (10_000, 500)):
            assert rates(schedule, total).index(max(rates(schedule, total))) == warmup - 1
    assert all(math.isfinite(value) for total in (1, 2, 3) for value in rates("cosine", total))


@pytest.mark.parametrize("bias", ["mean", "zero"])
def test_output_bias(tmp_path: Path, bias: str) -> None:
    run = make_run(tmp_path / "run", output_bias=bias)
    model = loop.initial_model(run.config, DATASET.train)
    start = torch.sigmoid(model.decoder.output.bias.detach()).view(1, 8, 8)
    if bias == "mean":
        pixels = np.asarray(DATASET.train.pixels)
        np.testing.assert_allclose(start.numpy(), pixels.mean(0) / 255, atol=0.01, rtol=0)
    else:
        assert torch.equal(start, torch.full_like(start, 0.5))
