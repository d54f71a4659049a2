"""What a person or a pipe sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from vaecli.errors import VaecliError
from vaecli.system import shell
from vaecli.system.callbacks import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.progress import TaskID

    from vaecli.terminal.live import HalfBlocks

SCHEMA_VERSION = 1


def escape(text: str) -> str:
    """Make control characters and undecodable bytes visible, so that no name can draw."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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

    @property
    def live(self) -> bool:
        """Whether bars may move."""
        return self.progress and self._at_terminal

    @property
    def draws(self) -> bool:
        """Whether pictures may be drawn: a real terminal that has block characters."""
        return self.preview and self._at_terminal and self.blocks

    @property
    def blocks(self) -> bool:
        """Whether stderr can show characters outside ASCII."""
        return (getattr(_stderr(), "encoding", None) or "").lower().startswith("utf")

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal."""
        from vaecli.terminal import live

        return live.size(_stderr())

    @property
    def _at_terminal(self) -> bool:
        return not self.quiet and not self.silent and may_animate(_stderr())

    def half_blocks(self, rows: Sequence[NDArray[Any]]) -> HalfBlocks:
        """Rows of pictures, (N, H, W, 3) uint8 each, H even, as rich draws them."""
        from vaecli.terminal.live import HalfBlocks

        return HalfBlocks(rows, self.console())

    def pictures(self, rows: Sequence[NDArray[Any]]) -> None:
        """Draw rows of pictures, (N, H, W, 3) uint8 each, where `draws` allows."""
        if self.draws:
            with contextlib.suppress(OSError, ValueError):
                self.console().print(self.half_blocks(rows), end="")

    def data(self, text: str) -> None:
        """One line of data on stdout."""
        if not self.silent:
            print(text, flush=True)

    def bytes(self, data: bytes) -> None:
        """Data that is no text, such as a PNG, on stdout."""
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
                print(escape(text), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def working(self) -> Iterator[Progress]:
        """Bars for long work that tells (what, done, total); silent away from a terminal."""
        if not self.live:
            yield no_progress
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        tasks: dict[str, TaskID] = {}
        with Bars(*columns, console=self.console(), transient=True) as progress:

            def work(what: str, done: int, total: int | None) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(escape(what), total=total)
                progress.update(tasks[what], completed=done, total=total)

            yield work

    def console(self) -> Console:
        """A rich console on stderr."""
        from rich.console import Console

        from vaecli.terminal.live import Frames

        return Console(file=Frames(_stderr()), highlight=False)  # type: ignore[arg-type]


def _stderr() -> Any:
    """The stream itself, where a live display stands before it to print above its lines."""
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def may_animate(stream: TextIO | None) -> bool:
    """Whether lines of a stream may be rewritten: a real terminal, whatever FORCE_COLOR says."""
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM") != "dumb"
        and shell.takes_escapes(stream.fileno())
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
