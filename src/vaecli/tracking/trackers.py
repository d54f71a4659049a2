"""What an experiment tracker is told of a run, and how it is started."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from vaecli.runs.directory import Run
from vaecli.system import files
from vaecli.tracking.names import CLASSES

PROJECT = "vaecli"
"""Project or experiment of the runs, where the tracker's own variables name no other."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told when training begins.

    Attributes:
        path: the run directory.
        id: the same each time the run is continued, and that of no other run.
        settings: the configuration, flat: `training.lr`, `model.latent_dim`.
    """

    path: Path
    id: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run) -> TrackedRun:
        """What is told of `run`."""
        settings = {
            f"{part}.{name}": value if isinstance(value, str | int | float) else str(value)
            for part, values in run.config.to_json().items()
            if isinstance(values, dict)
            for name, value in values.items()
            if value is not None
        }
        return cls(run.path.resolve(), run.tracking_id(), settings)

    @property
    def name(self) -> str:
        """What a tracker's table calls the run."""
        return self.path.name


class Tracker(Protocol):
    """A run of an experiment tracker, made or taken up again by `__init__`.

    Attributes:
        last_epoch: the last epoch whose metrics it holds already; later ones are logged again.
    """

    last_epoch: int

    def __init__(self, run: TrackedRun) -> None: ...

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of metrics.csv."""

    def finish(self, epoch: int, pictures: Sequence[Path], digest: str) -> None:
        """Log the pictures of the finished run, and the SHA-256 of its weights file."""

    def close(self, *, finished: bool) -> None:
        """Write what is buffered and let go of the run."""


def require_writable(folder: Path) -> None:
    """OSError where a tracker could not write: by itself it would retry, or write elsewhere."""
    files.make_plain_folder(folder)
    files.probe(folder)


def start(name: str, run: TrackedRun) -> Tracker:
    """Make the run of a tracker, or take it up again; imports the tracker's package."""
    module = importlib.import_module(f"vaecli.tracking.{name}")
    return cast(Tracker, getattr(module, CLASSES[name])(run))
