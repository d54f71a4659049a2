"""TensorBoard: event files in the run directory; `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from vaecli.tracking.trackers import TrackedRun, require_writable

FOLDER = "tensorboard"


class TensorBoard:
    """The event files of a run.

    All epochs are logged again when a run is continued: `purge_step` tells TensorBoard to forget
    what earlier files say of them.
    """

    last_epoch = 0

    def __init__(self, run: TrackedRun) -> None:
        require_writable(run.path / FOLDER)
        self._writer = SummaryWriter(str(run.path / FOLDER), purge_step=1)
        rows = [f"| {name} | {value} |" for name, value in run.settings.items()]
        table = "\n".join(["| setting | value |", "| --- | --- |", f"| run | {run.path} |", *rows])
        self._writer.add_text("configuration", table, 1)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of metrics.csv."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def finish(self, epoch: int, pictures: Sequence[Path], digest: str) -> None:
        """Log the pictures of the finished run, and the SHA-256 of its weights file."""
        for path in pictures:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(path.stem, pixels, epoch, dataformats="HWC")
        self._writer.add_text("model.safetensors SHA-256", digest, epoch)

    def close(self, *, finished: bool) -> None:
        """Write what is buffered and let go of the run."""
        self._writer.close()
