"""Tells experiment trackers what happens in a training; a tracker that fails is left out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

from vaecli.runs.directory import WEIGHTS, Run
from vaecli.runs.metrics import EpochMetrics
from vaecli.system import files
from vaecli.system.callbacks import Report
from vaecli.tracking import trackers
from vaecli.tracking.trackers import TrackedRun, Tracker
from vaecli.training.events import Drawn, EpochEnd, Event, Notice, Started, Stopped


def follow(events: Iterable[Event], run: Run, names: Sequence[str]) -> Generator[Event, None, None]:
    """Pass on the events of a training, and tell the trackers of them.

    A tracker that fails ends no training: a `Notice` says why, and it is told nothing more.

    Args:
        events: as `loop.train` yields them.
        run: the run directory.
        names: of the trackers.
    """
    told = _Told(run, names)
    try:
        for event in events:
            match event:
                case Started():
                    yield from told.start(run.read_metrics()[: event.epoch])
                case EpochEnd():
                    yield from told.log([event.metrics])
                case Drawn():
                    yield from told.finish(event.files)
                case Stopped():
                    yield from told.close()
            yield event
    finally:
        notices = list(told.close())
    yield from notices


def record(run: Run, names: Sequence[str], report: Report) -> list[str]:
    """Tell trackers of a run that is finished.

    Args:
        run: the run directory.
        names: of the trackers.
        report: gets a sentence for each that failed.

    Returns:
        The names of the others.
    """
    told = _Told(run, names)
    pictures = sorted(run.path.glob("*.png"))
    for notice in chain(told.start(run.read_metrics()), told.finish(pictures), told.close()):
        report(notice.text)
    return told.well


class _Told:
    """The trackers of a run."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._run = run
        self.well = list(names)
        """The names of the trackers that did not fail so far."""
        self._open: dict[str, Tracker] = {}
        self._epoch = 0
        self._finished = False

    def start(self, rows: Sequence[EpochMetrics]) -> Iterator[Notice]:
        """Make or take up the trackers' runs; log those of `rows` that a tracker lacks."""
        if not self.well:
            return
        about = TrackedRun.of(self._run)
        for name in self.well[:]:
            yield from self._attempt(name, partial(self._begin, name, about))
        yield from self.log(rows)

    def _begin(self, name: str, about: TrackedRun) -> None:
        self._open[name] = trackers.start(name, about)

    def log(self, rows: Sequence[EpochMetrics]) -> Iterator[Notice]:
        """Log the metrics of epochs."""
        for row in rows:
            self._epoch = row.epoch
            metrics = {name: value for name, value in asdict(row).items() if value is not None}
            del metrics["epoch"]
            yield from self._each(partial(self._log, metrics))

    def _log(self, metrics: dict[str, float], tracker: Tracker) -> None:
        if self._epoch > tracker.last_epoch:
            tracker.log(self._epoch, metrics)

    def finish(self, written: Sequence[Path]) -> Iterator[Notice]:
        """Log the pictures of a finished run, and what its weights are."""
        self._finished = True
        if not self._open:
            return
        digest = files.sha256((self._run.path / WEIGHTS).read_bytes())
        pictures = [path for path in written if path.suffix == ".png"]
        yield from self._each(lambda tracker: tracker.finish(self._epoch, pictures, digest))

    def close(self) -> Iterator[Notice]:
        """Let go of the trackers' runs."""
        yield from self._each(lambda tracker: tracker.close(finished=self._finished))
        self._open.clear()

    def _each(self, tell: Callable[[Tracker], None]) -> Iterator[Notice]:
        for name, tracker in list(self._open.items()):
            yield from self._attempt(name, partial(tell, tracker))

    def _attempt(self, name: str, tell: Callable[[], None]) -> Iterator[Notice]:
        try:
            tell()
        except Exception as error:
            self.well.remove(name)
            if (tracker := self._open.pop(name, None)) is not None:
                with contextlib.suppress(Exception):
                    tracker.close(finished=False)
            why = " ".join(str(error).split())[:300] or type(error).__name__
            yield Notice(f"--track {name} failed, and is told nothing more: {why}")
