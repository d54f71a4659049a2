"""A recorded training step does what the step itself does; CUDA is not needed to see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from test_resume import same, state
from test_training import DATASET, finish, make_run
from vaecli.training.cuda_graph import WARM_UP, Replayed, recorder


class Tape:
    """Records on the CPU, as strictly as a graph: what is replayed reads the same tensors."""

    def __init__(self) -> None:
        self.counts = {"warm-up": 0, "recorded": 0, "replayed": 0}

    def warm_up(self, step: Callable[[], None]) -> None:
        self.counts["warm-up"] += 1
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.counts["recorded"] += 1

        def replay() -> None:
            self.counts["replayed"] += 1
            step()

        return replay


class BrokenTape(Tape):
    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_inputs_are_copied_and_other_shapes_run_as_they_are() -> None:
    seen: list[tuple[int, float]] = []

    def step(x: Tensor) -> None:
        seen.append((x.data_ptr(), float(x.sum())))

    tape = Tape()
    replayed = Replayed(step, tape)
    whole = [torch.full((4,), float(number)) for number in range(WARM_UP + 3)]
    for x in whole:
        replayed(x)
    short = torch.ones(3)
    replayed(short)
    assert [total for _, total in seen] == [*(4.0 * n for n in range(WARM_UP + 3)), 3.0]
    assert len({place for place, _ in seen[:-1]}) == 1
    assert seen[-1][0] == short.data_ptr()
    assert tape.counts == {"warm-up": WARM_UP, "recorded": 1, "replayed": 3}


def test_the_largest_batch_is_what_is_recorded() -> None:
    """A run that is continued may begin with the short last batch of an epoch."""
    seen: list[float] = []
    tape = Tape()
    replayed = Replayed(lambda x: seen.append(float(x.sum())), tape)
    for size in (3, *[4] * (WARM_UP + 2), 3):
        replayed(torch.ones(size))
    assert seen == [3, *[4] * (WARM_UP + 2), 3]
    assert tape.counts == {"warm-up": 1 + WARM_UP, "recorded": 1, "replayed": 2}


@pytest.mark.parametrize("tape", [Tape(), BrokenTape()], ids=["recorded", "eager fallback"])
@pytest.mark.parametrize(
    "settings", [{}, {"importance_samples": 3, "warmup_epochs": 1}, {"condition": "labels"}]
)
def test_training_from_a_record_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tape: Tape, settings: dict[str, Any]
) -> None:
    """Learning rate, beta, images and noise reach it anew each step, short batches included."""
    eager = make_run(tmp_path / "eager", epochs=3, batch_size=30, **settings)
    assert len(DATASET.train) % 30
    finish(eager)
    monkeypatch.setattr("vaecli.training.step.recorder", lambda device: tape)
    taped = make_run(tmp_path / "taped", epochs=3, batch_size=30, **settings)
    finish(taped)
    assert same(state(taped), state(eager))
    assert tape.counts["warm-up"] >= WARM_UP
    assert (tape.counts["replayed"] > 0) == (type(tape) is Tape)


def test_the_cpu_records_nothing() -> None:
    assert recorder(torch.device("cpu")) is None
