"""Data on stdout, everything else on stderr."""

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

    from vaecli.terminal.half_blocks import HalfBlocks

SCHEMA_VERSION = 1


def escape(text: str) -> str:
    """Escape control characters and undecodable bytes, so that no name can control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Terminal:
    """stdout and stderr, and how much to print there.

    Attributes:
        silent: print nothing, in a process whose results another one prints.
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
        """Whether progress bars are shown."""
        return self.progress and self._at_terminal

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn: at a terminal that has block characters."""
        return self.preview and self._at_terminal and self.blocks

    @property
    def blocks(self) -> bool:
        """Whether stderr can show characters outside ASCII."""
        return (getattr(_stderr(), "encoding", None) or "").lower().startswith("utf")

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal."""
        from vaecli.terminal import half_blocks

        return half_blocks.size(_stderr())

    @property
    def _at_terminal(self) -> bool:
        return not self.quiet and not self.silent and may_animate(_stderr())

    def half_blocks(self, rows: Sequence[NDArray[Any]]) -> HalfBlocks:
        """Rows of pictures, (N, H, W, 3) uint8 each, H even, as something rich can print."""
        from vaecli.terminal.half_blocks import HalfBlocks

        return HalfBlocks(rows, self.console())

    def pictures(self, rows: Sequence[NDArray[Any]]) -> None:
        """Draw rows of pictures, (N, H, W, 3) uint8 each, if `draws`."""
        if self.draws:
            with contextlib.suppress(OSError, ValueError):
                self.console().print(self.half_blocks(rows), end="")

    def data(self, text: str) -> None:
        """Print one line of data on stdout."""
        if not self.silent:
            print(text, flush=True)

    def bytes(self, data: bytes) -> None:
        """Write binary data, such as a PNG, to stdout."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def object(self, value: Mapping[str, Any]) -> None:
        """Print one JSON object on stdout; NaN and infinity become null."""
        content = {"schema_version": SCHEMA_VERSION, **value}
        self.data(json.dumps(_finite(content), allow_nan=False))

    def values(self, value: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Print named results: as JSON, as an aligned list at a terminal, else `name<TAB>value`."""
        if self.json:
            self.object(value)
        elif sys.stdout is not None and sys.stdout.isatty():
            width = max(map(len, texts))
            for name, text in texts.items():
                self.data(f"{name:<{width}}  {text}")
        else:
            for name, text in texts.items():
                self.data(f"{name}\t{text}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under a line of names: aligned at a terminal, else separated by tabs."""
        lines = [columns, *rows]
        if sys.stdout is not None and sys.stdout.isatty():
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            for first, *rest in lines:
                cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
                self.data("  ".join([escape(first).ljust(widths[0]), *cells]))
        else:
            for line in lines:
                self.data("\t".join(map(escape, line)))

    def note(self, text: str) -> None:
        """Print a line on stderr, unless --quiet."""
        if not self.quiet:
            self._say(text)

    def prose(self, text: str) -> None:
        """Print a note wrapped between words; not for text with a command to copy."""
        columns = self.size[0] - 1 if self._at_terminal else sys.maxsize
        lines = textwrap.wrap(escape(text), columns, break_long_words=False, break_on_hyphens=False)
        for line in lines:
            self.note(line)

    def detail(self, text: str) -> None:
        """Print a line on stderr with --verbose."""
        if self.verbose and not self.quiet:
            self._say(text)

    def warning(self, text: str) -> None:
        """Print a warning on stderr, unless --quiet."""
        self.note(f"vaecli: warning: {text}")

    def error(self, error: VaecliError) -> None:
        """Print an error: one paragraph on stderr, and with --json an object on stdout."""
        end = "" if error.message.endswith("?") else "."
        self._say(f"vaecli: {error.label}{error.message.rstrip('.')}{end} {error.hint}".rstrip())
        if self.json:
            content = {"code": error.code, "message": error.message, "hint": error.hint}
            self.object({"error": content})

    def _say(self, text: str) -> None:
        if sys.stderr is not None and not self.silent:
            # a closed or full stderr must not end the work
            with contextlib.suppress(OSError, ValueError):
                print(escape(text), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def working(self) -> Iterator[Progress]:
        """Progress bars for long work; away from a terminal, none."""
        if not self.live:
            yield no_progress
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        tasks: dict[str, TaskID] = {}
        # what is printed meanwhile goes above the bars, unless stdout leads elsewhere
        shared = sys.stdout is not None and sys.stdout.isatty()
        with Bars(
            *columns, console=self.console(), transient=True, redirect_stdout=shared
        ) as progress:

            def work(what: str, done: int, total: int | None) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(escape(what), total=total)
                progress.update(tasks[what], completed=done, total=total)

            yield work

    def console(self) -> Console:
        """A rich console on stderr."""
        from rich.console import Console

        from vaecli.terminal.half_blocks import Frames

        return Console(file=Frames(_stderr()), highlight=False)  # type: ignore[arg-type]


def _stderr() -> Any:
    """The original stderr, even while a live display has replaced it."""
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def may_animate(stream: TextIO | None) -> bool:
    """Whether lines may be rewritten: only at a real terminal, whatever FORCE_COLOR says."""
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
