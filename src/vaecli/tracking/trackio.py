"""Trackio: its local folder, or the Space or server that its variables name."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import trackio
from huggingface_hub import constants

from vaecli.tracking.trackers import PROJECT, TrackedRun, require_writable

PACKAGE = Path(trackio.__file__).parent


class Trackio:
    """A run of Trackio, found again by its name.

    It writes twice a second, so the last epochs before a kill may be missing.
    """

    def __init__(self, run: TrackedRun) -> None:
        local = not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & os.environ.keys()
        if local:
            require_writable(trackio.TRACKIO_DIR)
        self._failures = _Failures()
        with _on_stdout_nothing(), _network(allowed=not local):
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=f"{run.name}-{run.id}",
                resume="allow",
                config={"run": str(run.path), **run.settings},
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        self.last_epoch = max(self._run._next_step - 1, 0)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of metrics.csv."""
        self._run.log(dict(metrics), step=epoch)
        self._failures.check()

    def finish(self, epoch: int, pictures: Sequence[Path], digest: str) -> None:
        """Log the pictures of the finished run, and the SHA-256 of its weights file."""
        images = {path.stem: trackio.Image(path) for path in pictures}
        self._run.log({**images, "sha256": digest}, step=epoch)
        self._failures.check()

    def close(self, *, finished: bool) -> None:
        """Write what is buffered and let go of the run."""
        try:
            with _on_stdout_nothing():
                trackio.finish()
        finally:
            self._failures.stop()
        self._failures.check()


class _Failures:
    """Collects the warnings into which Trackio turns every error."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._others = warnings.showwarning
        warnings.showwarning = self._show

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if PACKAGE in Path(filename).parents:
            self._texts.append(str(message))
        else:
            self._others(message, category, filename, lineno, file, line)

    def check(self) -> None:
        """RuntimeError with the first of them."""
        if self._texts:
            raise RuntimeError(self._texts[0])

    def stop(self) -> None:
        """Leave warnings as they were."""
        warnings.showwarning = self._others


def _on_stdout_nothing() -> contextlib.redirect_stdout[io.StringIO]:
    """Trackio prints what it does; stdout is for data."""
    return contextlib.redirect_stdout(io.StringIO())


@contextlib.contextmanager
def _network(*, allowed: bool) -> Iterator[None]:
    """Trackio asks the Hub for the user's name even where it writes into a local folder."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
