"""When the state of a training is committed, and what a commit holds besides tensors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaecli.model.vae import arrays
from vaecli.runs.directory import Run
from vaecli.runs.metrics import EpochMetrics
from vaecli.system.callbacks import Report
from vaecli.system.processes import Processes
from vaecli.training.checkpoint import Checkpoints

COMMIT_EVERY = 50
"""Wait at least so many times as long as the last commit took: with the first and the last of a
run, which nothing bounds, commits then take less than 3 % of the time."""


@dataclass
class State:
    """What a commit holds, besides the tensors of model and optimizer."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rows: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0
    """The epoch of the lowest held-out loss; 0 before the first, and without --patience."""

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and step."""
        return self.epoch, self.step

    def info(self) -> dict[str, Any]:
        """It as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_info(cls, info: dict[str, Any]) -> State:
        """It from what `info` gave."""
        rows = [EpochMetrics(**row) for row in info["rows"]]
        return cls(**{**info, "rows": rows})


class Commits:
    """The commits of a run: the newest one, and whether another is due.

    Args:
        run: the run directory.
        processes: those that train it together; only the first reads or writes it.
    """

    def __init__(self, run: Run, processes: Processes) -> None:
        self._processes = processes
        self.checkpoints = Checkpoints.of(run) if processes.first else None
        self._place: tuple[int, int] | None = None
        self._made, self._cost = time.perf_counter(), 0.0

    @torch.no_grad()
    def restore(
        self, tensors: dict[str, Tensor], derive: Callable[[State], None], warn: Report
    ) -> State | None:
        """Fill the tensors of every process from the newest commit.

        Args:
            tensors: those that a commit holds, by name.
            derive: writes what follows from the state; only called in the first process.
            warn: called when a damaged generation is skipped.

        Returns:
            The state; None where nothing is committed.
        """
        info = None
        with self._processes.agreed():
            if self.checkpoints is not None:
                shapes = {
                    name: (array.dtype.name, array.shape) for name, array in arrays(tensors).items()
                }
                checkpoint = self.checkpoints.newest(shapes, warn)
                if checkpoint is not None:
                    info = checkpoint.info
                    for name, tensor in tensors.items():
                        tensor.copy_(torch.from_numpy(checkpoint.tensors[name]))
                    derive(State.from_info(info))
                    self.checkpoints.remove_leftovers()
        info = self._processes.share_value(info)
        self._processes.share_tensors(tensors.values())
        if info is None:
            return None
        state = State.from_info(info)
        self._place = state.place
        return state

    def has(self, state: State) -> bool:
        """Whether the newest commit is of this very place."""
        return self._place == state.place

    def due(self, at_least: float = 0.0) -> bool:
        """Whether it is time for another, and `at_least` so many seconds since the last."""
        since = time.perf_counter() - self._made
        return self._processes.first_says(since >= max(at_least, COMMIT_EVERY * self._cost))

    def commit(
        self, state: State, tensors: dict[str, Tensor], derive: Callable[[State], None]
    ) -> None:
        """Save a state, and then what follows from it; arguments as for `restore`."""
        began = time.perf_counter()
        with self._processes.agreed():
            if self.checkpoints is not None:
                self.checkpoints.commit(arrays(tensors), state.info())
                derive(state)
        self._place = state.place
        self._made = time.perf_counter()
        self._cost = self._made - began
