"""Weights & Biases: offline unless WANDB_MODE says otherwise; `wandb sync` uploads such a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing goes over the network unasked

import wandb

from vaecli.tracking.trackers import PROJECT, TrackedRun, require_writable


class Wandb:
    """A run of Weights & Biases, with the same id each time it is continued.

    Offline it cannot know what earlier files hold, of which a kill may have left none; each file
    then tells of all epochs.
    """

    def __init__(self, run: TrackedRun) -> None:
        require_writable(Path(os.environ.get("WANDB_DIR", ".")))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            resume="allow",
            mode=None if "WANDB_MODE" in os.environ else "offline",
            config={"run": str(run.path), **run.settings},
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.last_epoch = max(self._run.starting_step - 1, 0)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of metrics.csv."""
        self._run.log({"epoch": epoch, **metrics}, step=epoch, commit=True)

    def finish(self, epoch: int, pictures: Sequence[Path], digest: str) -> None:
        """Log the pictures of the finished run, and the SHA-256 of its weights file."""
        images = {path.stem: wandb.Image(str(path)) for path in pictures}
        self._run.log(images, step=epoch + 1, commit=True)
        self._run.summary["sha256"] = digest

    def close(self, *, finished: bool) -> None:
        """Write what is buffered and let go of the run."""
        self._run.finish(exit_code=0 if finished else 1)
