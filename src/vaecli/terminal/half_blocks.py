"""Additions to rich's live display: half-block pictures, and frames that do not flicker."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO

from rich.color import Color
from rich.console import Console, ConsoleOptions
from rich.segment import ControlType, Segment, Segments
from rich.style import Style

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHADES = " ░▒▓█"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERASE = re.compile(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*")
_CONTROL = [(ControlType.CARRIAGE_RETURN,)]
"""Marks a segment as control codes, which rich passes on without measuring or cropping them."""
# synchronized output: the terminal shows the whole change at once, or ignores the codes
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"


class HalfBlocks:
    """Pictures for rich: each character cell shows two pixels, one above the other.

    Args:
        rows: rows of pictures, (N, H, W, 3) uint8 each, H even.
        console: where they are drawn; with fewer than 256 colours, as shades of its text colour.
    """

    def __init__(self, rows: Sequence[NDArray[Any]], console: Console) -> None:
        few = console.no_color or console.color_system in (None, "standard")
        draw = _shaded if few else _coloured
        segments = [
            segment
            for images in rows
            for line in images.reshape(len(images), -1, 2, *images.shape[2:]).swapaxes(0, 1)
            for segment in [*_joined([draw(*pair) for pair in line.tolist()]), Segment.line()]
        ]
        # rendered once: styling a thousand cells takes rich milliseconds in every frame
        with console.capture() as capture:
            console.print(Segments(segments), end="")
        self._lines = capture.get().splitlines()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the segments, as rich requires."""
        for line in self._lines:
            yield Segment(line, None, _CONTROL)
            yield Segment.line()


def _joined(parts: list[list[Segment]]) -> Iterator[Segment]:
    for index, part in enumerate(parts):
        if index:
            yield Segment(" ")
        yield from part


def _coloured(top: list[list[int]], bottom: list[list[int]]) -> list[Segment]:
    return [
        Segment(
            "▀" * len(list(cells)),
            Style.from_color(Color.from_rgb(*upper), Color.from_rgb(*lower)),
        )
        for (upper, lower), cells in groupby(zip(top, bottom, strict=True))
    ]


def _shaded(top: list[list[int]], bottom: list[list[int]]) -> list[Segment]:
    levels = (sum(upper) + sum(lower) for upper, lower in zip(top, bottom, strict=True))
    return [Segment("".join(_SHADES[min(4, level * 5 // 1531)] for level in levels))]


def size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal behind `stream`; 80 and 24 if unknown."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, rows or 24


class Frames(io.TextIOBase):
    """Stands between rich's live display and the terminal; rewrites only lines that changed.

    rich erases all lines of a live display and writes them again. That flickers, sends every
    picture ten times a second, and fails if a narrower window has wrapped the lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._lines: list[str] = []
        self._columns = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the terminal."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the terminal."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Buffer a part of a frame."""
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Show the buffered frame; rich flushes once per frame."""
        text, self._text = self._text, ""
        columns, _ = size(self._stream)
        erase = _ERASE.match(text)
        lines = text[erase.end() if erase else 0 :].split("\n")
        if erase:
            old = self._lines[-1 - erase[0].count("A") :]
            if len(lines) == len(old) and columns >= self._columns:
                up = len(old) - 1
                pairs = zip(lines, old, strict=True)
                text = "\n".join("" if new == was else f"{new}\x1b[K" for new, was in pairs)
            else:
                up = sum(max(1, -(-_width(line) // columns)) for line in old) - 1
                text = "\x1b[J" + "\n".join(lines)
            text = "\r" + (f"\x1b[{up}A" if up else "") + text
        if text:
            self._stream.write(f"{_BEGIN}{text}{_END}")
            self._stream.flush()
            self._lines, self._columns = lines, columns


def _width(line: str) -> int:
    """Cells that a line takes, if each character takes one."""
    return len(_ESCAPE.sub("", line))
