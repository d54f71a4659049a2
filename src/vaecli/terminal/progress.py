"""Training progress: one line per epoch, or a live display."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vaecli.runs.metrics import EpochMetrics
from vaecli.terminal.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_SECONDS = 60.0
"""Away from a terminal, the longest time without a line."""
LONG_SECONDS, KNOWN_AFTER = 600.0, 10.0
"""A training expected to take longer is announced, once it has shown its pace this long."""
PAUSE_FACTOR = 400
"""Redraw only after 400 times as long as the last drawing took, but at least every second."""


@dataclass
class TrainingView:
    """One plain line per epoch, for log files, and one per minute within long epochs."""

    terminal: Terminal
    epochs: int
    images: int
    _first: tuple[float, int] = field(default=(0.0, 0), kw_only=True)
    _last_line: float = field(default=0.0, kw_only=True)
    _announced: bool = field(default=False, kw_only=True)

    def start(self, done: int) -> None:
        """Training begins with `done` images already visited."""
        self._last_line = time.monotonic()
        self._first = self._last_line, done

    def step(self, epoch: int, images: int, distortion: float, rate: float) -> None:
        """Show the progress within an epoch, with the mean terms of the loss so far."""
        done = (epoch - 1) * self.images + images
        self._announce(done)
        if time.monotonic() - self._last_line < PLAIN_SECONDS:
            return
        self._last_line = time.monotonic()
        share, left = self._ahead(done)
        self.terminal.note(
            f"{self._head(epoch)}  {100 * share:.0f} %  loss {distortion + rate:.2f} after"
            f" {images:,} images  {left} left"
        )

    def _announce(self, done: int) -> None:
        """Say once how long a new, long training will take, while it costs little to stop it."""
        if self._announced or time.monotonic() - self._first[0] < KNOWN_AFTER:
            return
        self._announced = True
        if not self._first[1] and self._pace(done) * self.epochs * self.images > LONG_SECONDS:
            self.terminal.note(expected(self._pace(done) * self.images, self.epochs))

    def _pace(self, done: int) -> float:
        """Seconds per image so far."""
        # includes the test passes so far; the speed in images/s does not
        return (time.monotonic() - self._first[0]) / max(done - self._first[1], 1)

    def _ahead(self, done: int) -> tuple[float, str]:
        """The share of all images that is `done`, and the time left, as m:ss."""
        total = self.epochs * self.images
        return done / total, _clock(self._pace(done) * (total - done))

    def _head(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"

    def picture(self, picture: RenderableType | None) -> None:
        """Show the current reconstructions of some images."""

    def epoch(self, row: EpochMetrics) -> None:
        """Show the line of an epoch."""
        self._last_line = time.monotonic()
        self.terminal.note(self._forms(row)[0])

    def _forms(self, row: EpochMetrics) -> list[str]:
        """The line of an epoch, and ever shorter ones for narrow terminals."""
        head = self._head(row.epoch)
        apart = f"{row.objective:.2f}" != f"{row.train_loss:.2f}"
        objective = f"  objective {row.objective:.2f}" if apart else ""
        losses = f"train {row.train_loss:.2f}  test {row.test_loss:.2f}"
        terms = f"= distortion {row.test_distortion:.2f} + rate {row.test_rate:.2f}"
        return [
            f"{head}{objective}  {losses} {terms}  {row.images_per_second:,.0f} images/s"
            f"  {row.seconds:.1f} s",
            f"{head}{objective}  {losses} {terms}",
            f"{head}  {losses} {terms}",
            f"{head}  {losses}",
            f"{head}  test {row.test_loss:.2f}",
        ]


class LiveTrainingView(TrainingView):
    """Pictures, a bar and figures that change in place, below the lines of the epochs."""

    def __init__(self, terminal: Terminal, epochs: int, images: int) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(terminal, epochs, images)
        self._lap = self._first
        self._console = terminal.console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(style="bright_black", complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[left]} left"),
            console=self._console,
        )
        self._task = self._bar.add_task("", visible=False, total=epochs * images, left="")
        self._figures = ""
        self._due = 0.0
        self._picture: RenderableType | None = None
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)

    def start(self, done: int) -> None:
        """Training begins with `done` images already visited."""
        super().start(done)
        self._lap = self._first

    def step(self, epoch: int, images: int, distortion: float, rate: float) -> None:
        """Show the progress within an epoch, with the mean terms of the loss so far."""
        if time.monotonic() < self._due:
            return
        done = (epoch - 1) * self.images + images
        self._announce(done)
        speed = (done - self._lap[1]) / max(time.monotonic() - self._lap[0], 1e-9)
        self._bar.update(
            self._task,
            completed=done,
            description=self._head(epoch),
            left=self._ahead(done)[1],
            visible=True,
        )
        figures = [
            f"loss {distortion + rate:.2f} nats/image",
            f"distortion {distortion:.2f} + rate {rate:.2f}",
            f"{speed:,.0f} images/s",
        ]
        one_line = "    ".join(figures)
        fits = len(one_line) < self.terminal.size[0]
        self._figures = one_line if fits else "\n".join(figures)
        self._draw()

    def picture(self, picture: RenderableType | None) -> None:
        """Show the current reconstructions of some images."""
        if picture is not self._picture:
            self._picture = picture
            self._draw()

    def epoch(self, row: EpochMetrics) -> None:
        """Show the line of an epoch."""
        columns, forms = self.terminal.size[0] - 1, self._forms(row)
        line = next((form for form in forms if len(form) <= columns), forms[-1][:columns])
        self.terminal.note(line)
        self._lap = (time.monotonic(), row.epoch * self.images)

    def __enter__(self) -> LiveTrainingView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last pictures on screen; a terminal that was closed is no error."""
        self._bar.update(self._task, visible=False)
        self._figures = ""
        self._draw()
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()

    def _draw(self) -> None:
        from rich.console import ConsoleDimensions, Group

        began = time.thread_time()
        columns, rows = self.terminal.size
        # erasing the rest of a full line would erase its last character
        self._console.size = ConsoleDimensions(columns - 1, rows)
        parts = [part for part in (self._picture, self._bar, self._figures) if part]
        with contextlib.suppress(OSError, ValueError):
            self._live.update(Group(*parts), refresh=True)
        self._due = time.monotonic() + min(PAUSE_FACTOR * (time.thread_time() - began), 1.0)


@contextlib.contextmanager
def training_view(terminal: Terminal, epochs: int, images: int) -> Iterator[TrainingView]:
    """The view of a training of `epochs` times `images`."""
    if not terminal.live:
        yield TrainingView(terminal, epochs, images)
        return
    with LiveTrainingView(terminal, epochs, images) as view:
        yield view


def expected(seconds: float, epochs: int) -> str:
    """How long a training takes, given the seconds of an epoch, and what shortens a long one."""
    one = "less than a second" if seconds < 1 else f"about {_clock(seconds)}"
    text = f"an epoch takes {one} here"
    if epochs > 1:
        text += f", {epochs} take {_clock(max(1, seconds * epochs))}"
    if seconds * epochs <= LONG_SECONDS:
        return text
    if fitting := int(LONG_SECONDS / seconds):
        return f"{text}; --epochs {fitting} takes {_clock(seconds * fitting)}"
    return f"{text}; --arch mlp takes less, and --limit trains on fewer images"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
