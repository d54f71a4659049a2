"""What a person or a pipe sees: data on stdout, everything else on stderr.

The only file that imports rich, and only when something is drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vaecli.errors import VaecliError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vaecli.run import EpochMetrics

SCHEMA_VERSION = 1


def escape(text: str) -> str:
    """Make control characters and undecodable bytes visible, so that no name can draw."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_streams() -> None:
    """Let a stream that cannot show a character show an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@dataclass
class Terminal:
    """The two streams and how much to say on them.

    Attributes:
        quiet: only errors on stderr.
        verbose: more on stderr.
        json: machine-readable results and errors on stdout.
        progress: live bars where stderr is a terminal.
        debug: show the traceback of an error.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    progress: bool = True
    debug: bool = False

    @property
    def live(self) -> bool:
        """Whether bars may move: a real terminal, whatever FORCE_COLOR says."""
        return (
            self.progress
            and not self.quiet
            and sys.stderr is not None
            and sys.stderr.isatty()
            and os.environ.get("TERM") != "dumb"
        )

    def data(self, text: str) -> None:
        """One line of data on stdout."""
        if sys.stdout is not None:
            with contextlib.suppress(ValueError):  # stdout was closed before we started
                print(text, flush=True)

    def bytes(self, data: bytes) -> None:
        """Data that is no text, such as a PNG, on stdout."""
        if sys.stdout is not None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def object(self, value: Mapping[str, Any]) -> None:
        """One JSON object on stdout; NaN and infinity become null."""
        content = {"schema_version": SCHEMA_VERSION, **value}
        self.data(json.dumps(_finite(content), allow_nan=False))

    def values(self, value: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Named results: JSON, an aligned list at a terminal, else `name<TAB>value` lines."""
        if self.json:
            self.object(value)
        elif sys.stdout is not None and sys.stdout.isatty():
            width = max(map(len, texts))
            for name, text in texts.items():
                self.data(f"{name:<{width}}  {text}")
        else:
            for name, text in texts.items():
                self.data(f"{name}\t{text}")

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """Something worth knowing with --verbose."""
        if self.verbose and not self.quiet:
            self._say(text)

    def warning(self, text: str) -> None:
        """Something that may surprise."""
        self.note(f"vaecli: warning: {text}")

    def error(self, error: VaecliError) -> None:
        """The one paragraph an error gets on stderr, and its object under --json."""
        paragraph = f"vaecli: {error.label}{error.message.rstrip('.')}."
        self._say(f"{paragraph} {error.hint}".rstrip())
        if self.json:
            content = {"code": error.code, "message": error.message, "hint": error.hint}
            self.object({"error": content})

    def _say(self, text: str) -> None:
        if sys.stderr is not None:
            # a closed or full stderr is no reason to lose the work
            with contextlib.suppress(OSError, ValueError):
                print(escape(text), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def working(self) -> Iterator[Work]:
        """Bars for long work that tells (what, done, total); silent away from a terminal."""
        if not self.live:
            yield lambda what, done, total: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        tasks: dict[str, TaskID] = {}
        with Progress(*columns, console=_console(), transient=True) as progress:

            def work(what: str, done: int, total: int | None) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(escape(what), total=total)
                progress.update(tasks[what], completed=done, total=total)

            yield work

    @contextlib.contextmanager
    def training(self, epochs: int, images: int) -> Iterator[TrainingView]:
        """The view of a training of `epochs` times `images`."""
        if not self.live:
            yield TrainingView(self, epochs)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=_console(),
            transient=True,
        )
        with progress:
            task = progress.add_task(
                "", total=epochs * images, epoch=f"1/{epochs}", loss="-", speed="-", start=False
            )
            yield LiveTrainingView(self, epochs, images, progress, task)


class Work(Protocol):
    """Tells how far long work is."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` (None: unknown) of `what`."""


@dataclass
class TrainingView:
    """One plain line per epoch, as a log file wants it."""

    terminal: Terminal
    epochs: int

    def start(self, done: int) -> None:
        """Training begins with `done` images already visited."""

    def step(self, epoch: int, images: int, loss: float) -> None:
        """Progress within an epoch."""

    def epoch(self, row: EpochMetrics) -> None:
        """The end of an epoch."""
        width = len(str(self.epochs))
        apart = f"{row.objective:.2f}" != f"{row.train_loss:.2f}"
        objective = f"  objective {row.objective:.2f}" if apart else ""
        self.terminal.note(
            f"epoch {row.epoch:>{width}}/{self.epochs}{objective}  train {row.train_loss:.2f}"
            f"  test {row.test_loss:.2f} = distortion {row.test_distortion:.2f}"
            f" + rate {row.test_rate:.2f}  {row.images_per_second:,.0f} images/s"
            f"  {row.seconds:.1f} s"
        )


@dataclass
class LiveTrainingView(TrainingView):
    """A bar that moves, with the line of each epoch above it."""

    images: int
    progress: Progress
    task: TaskID

    def start(self, done: int) -> None:
        """Training begins with `done` images already visited."""
        self.progress.start_task(self.task)
        self.progress.update(self.task, completed=done)

    def step(self, epoch: int, images: int, loss: float) -> None:
        """Progress within an epoch."""
        speed = self.progress.tasks[0].speed
        self.progress.update(
            self.task,
            completed=(epoch - 1) * self.images + images,
            epoch=f"{epoch}/{self.epochs}",
            loss=f"{loss:.2f}",
            speed=f"{speed:,.0f}" if speed else "-",
        )

    def epoch(self, row: EpochMetrics) -> None:
        """The end of an epoch."""
        self.progress.update(self.task, completed=row.epoch * self.images)
        super().epoch(row)


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stderr)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
