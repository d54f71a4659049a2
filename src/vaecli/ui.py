"""What a person or a pipe sees: data on stdout, everything else on stderr.

The only file that imports rich, and only when something is drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vaecli import screen
from vaecli.errors import VaecliError
from vaecli.screen import Depth, Screen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.progress import TaskID

    from vaecli.metrics import EpochMetrics

SCHEMA_VERSION = 1
PLAIN_SECONDS = 60.0
"""Away from a terminal, how long an epoch may go on without a line."""


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
        silent: not a word, for a process whose results another one tells.
        quiet: only errors on stderr.
        verbose: more on stderr.
        json: machine-readable results and errors on stdout.
        progress: live bars where stderr is a terminal.
        preview: pictures where stderr is a terminal.
        debug: show the traceback of an error.
    """

    silent: bool = False
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    progress: bool = True
    preview: bool = True
    debug: bool = False
    _screen: Screen | None = field(default=None, init=False, repr=False)

    @property
    def live(self) -> bool:
        """Whether bars may move: a real terminal, whatever FORCE_COLOR says."""
        return self.progress and self._at_terminal

    @property
    def draws(self) -> bool:
        """Whether pictures may be drawn: a real terminal that has block characters."""
        return self.preview and self._at_terminal and self.blocks

    @property
    def blocks(self) -> bool:
        """Whether stderr can show characters outside ASCII."""
        return (getattr(sys.stderr, "encoding", None) or "").lower().startswith("utf")

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal."""
        return screen.size(sys.stderr)

    @property
    def _at_terminal(self) -> bool:
        return (
            not self.quiet
            and not self.silent
            and sys.stderr is not None
            and sys.stderr.isatty()
            and os.environ.get("TERM") != "dumb"
        )

    def rendered(self, rows: Sequence[NDArray[Any]]) -> list[str]:
        """Lines that show pictures, a row of them for each (N, H, W, 3) uint8, H even."""
        depth = _depth()
        lines = []
        for row in rows:
            tiles = [screen.half_blocks(image, depth) for image in row]
            lines += [" ".join(parts) for parts in zip(*tiles, strict=True)]
        return lines

    def pictures(self, rows: Sequence[NDArray[Any]]) -> None:
        """Draw rows of pictures, (N, H, W, 3) uint8 each, where `draws` allows."""
        if self.draws:
            with contextlib.suppress(OSError, ValueError):
                print(*self.rendered(rows), sep="\n", file=sys.stderr, flush=True)

    def data(self, text: str) -> None:
        """One line of data on stdout."""
        if sys.stdout is not None and not self.silent:
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

    def prose(self, text: str) -> None:
        """A note without a command to copy in it: at a terminal its lines end between words."""
        columns = self.size[0] - 1 if self._at_terminal else sys.maxsize
        lines = textwrap.wrap(escape(text), columns, break_long_words=False, break_on_hyphens=False)
        for line in lines:
            self.note(line)

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
        if sys.stderr is not None and not self.silent:
            # a closed or full stderr is no reason to lose the work
            with contextlib.suppress(OSError, ValueError):
                if self._screen is not None:
                    self._screen.above(escape(text))
                else:
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
            yield TrainingView(self, epochs, images)
            return
        self._screen = Screen(sys.stderr)
        view = LiveTrainingView(self, epochs, images, self._screen, _depth())
        try:
            yield view
        finally:
            left, self._screen = self._screen, None
            # the last pictures stay; a terminal that went away is no reason to fail
            with contextlib.suppress(OSError, ValueError):
                left.close(view.pictures)


class Work(Protocol):
    """Tells how far long work is."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` (None: unknown) of `what`."""


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


def _depth() -> Depth:
    """How many colours stderr may be given, as rich finds out from TERM, COLORTERM, NO_COLOR."""
    console = _console()
    if console.no_color or console.color_system is None:
        return "none"
    if console.color_system in ("truecolor", "windows"):
        return "truecolor"
    return "256" if console.color_system == "256" else "none"


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
