"""What a training looks like: a line per epoch, or a few lines that change in place."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from vaecli import screen
from vaecli.metrics import EpochMetrics
from vaecli.screen import Depth, Screen
from vaecli.ui import Terminal

PLAIN_SECONDS = 60.0
"""Away from a terminal, how long an epoch may go on without a line."""


@dataclass
class TrainingView:
    """One plain line per epoch, as a log file wants it, and one a minute within long epochs."""

    terminal: Terminal
    epochs: int
    images: int
    _first: tuple[float, int] = field(default=(0.0, 0), kw_only=True)
    _told: float = field(default=0.0, kw_only=True)

    def start(self, done: int) -> None:
        """Training begins with `done` images already visited."""
        self._told = time.monotonic()
        self._first = self._told, done

    def step(self, epoch: int, images: int, distortion: float, rate: float) -> None:
        """Progress within an epoch, and the mean terms of the loss in it so far."""
        if time.monotonic() - self._told < PLAIN_SECONDS:
            return
        self._told = time.monotonic()
        share, left = self._ahead((epoch - 1) * self.images + images)
        self.terminal.note(
            f"{self._head(epoch)}  {100 * share:.0f} %  loss {distortion + rate:.2f} after"
            f" {images:,} images  {left} left"
        )

    def _ahead(self, done: int) -> tuple[float, str]:
        """The share of all images that is `done`, and the time left, as m:ss."""
        # with the test passes so far, which the speed leaves out
        pace = (time.monotonic() - self._first[0]) / max(done - self._first[1], 1)
        total = self.epochs * self.images
        return done / total, _clock(pace * (total - done))

    def _head(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"

    def picture(self, lines: list[str]) -> None:
        """What the model makes of some images now."""

    def epoch(self, row: EpochMetrics) -> None:
        """The end of an epoch."""
        self._told = time.monotonic()
        self.terminal.note(self._forms(row)[0])

    def _forms(self, row: EpochMetrics) -> list[str]:
        """The line of an epoch, and shorter ones for narrow terminals."""
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


@dataclass
class LiveTrainingView(TrainingView):
    """Pictures and a few lines that change in place, with the line of each epoch above them."""

    screen: Screen
    depth: Depth
    pictures: list[str] = field(default_factory=list)
    _lap: tuple[float, int] = (0.0, 0)
    _status: list[str] = field(default_factory=list)

    def start(self, done: int) -> None:
        """Training begins with `done` images already visited."""
        super().start(done)
        self._lap = self._first

    def step(self, epoch: int, images: int, distortion: float, rate: float) -> None:
        """Progress within an epoch, and the mean terms of the loss in it so far."""
        now, done = time.monotonic(), (epoch - 1) * self.images + images
        speed = (done - self._lap[1]) / max(now - self._lap[0], 1e-9)
        (share, left), head = self._ahead(done), self._head(epoch)
        tail = f"{100 * share:3.0f} %  {left} left"
        loss = f"loss {distortion + rate:.2f}"
        columns = self.terminal.size[0] - 1
        room = columns - len(head) - len(tail) - 4
        bar = ""
        if room > 4:
            bar = f"  {_bar(share, min(room, 40), self.terminal.blocks, self.depth)}"
        self._status = [
            _first_that_fits(columns, f"{head}{bar}  {tail}", f"{head}  {tail}", head),
            *_lines_of(
                columns,
                f"{loss} = distortion {distortion:.2f} + rate {rate:.2f} nats/image",
                f"{speed:,.0f} images/s",
            ),
        ]
        self._draw()

    def picture(self, lines: list[str]) -> None:
        """What the model makes of some images now."""
        self.pictures = lines
        self._draw()

    def epoch(self, row: EpochMetrics) -> None:
        """The end of an epoch."""
        self.terminal.note(_first_that_fits(self.terminal.size[0] - 1, *self._forms(row)))
        self._lap = (time.monotonic(), row.epoch * self.images)

    def _draw(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.screen.draw([*self.pictures, *self._status])


@contextlib.contextmanager
def training_view(terminal: Terminal, epochs: int, images: int) -> Iterator[TrainingView]:
    """The view of a training of `epochs` times `images`."""
    with terminal.rewriting() as lines:
        if lines is None:
            yield TrainingView(terminal, epochs, images)
            return
        view = LiveTrainingView(terminal, epochs, images, lines, terminal.depth)
        try:
            yield view
        finally:
            # the last pictures stay; a terminal that went away is no reason to fail
            with contextlib.suppress(OSError, ValueError):
                lines.close(view.pictures)


def _first_that_fits(columns: int, *texts: str) -> str:
    return next((text for text in texts if screen.width_of(text) <= columns), texts[-1][:columns])


def _lines_of(columns: int, loss: str, speed: str) -> list[str]:
    """The loss and the speed on one line where both fit, else on two."""
    if len(loss) + len(speed) + 4 <= columns:
        return [f"{loss}    {speed}"]
    shorter = loss.replace("distortion", "dist.").replace(" nats/image", "")
    return [_first_that_fits(columns, loss, shorter), _first_that_fits(columns, speed)]


def _bar(share: float, width: int, blocks: bool, depth: Depth) -> str:
    """A bar of `width` cells; coloured where colours are wanted."""
    done = round(min(1.0, share) * width)
    full, empty = ("━", "─") if blocks else ("#", "-")
    if depth == "none":
        return full * done + empty * (width - done)
    return f"\x1b[36m{full * done}\x1b[0m\x1b[2m{empty * (width - done)}\x1b[0m"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
