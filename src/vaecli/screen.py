"""What a terminal can show without a library: half-block pictures, lines rewritten in place."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from numpy.typing import NDArray

Depth = Literal["truecolor", "256", "none"]
"""How many colours: 24 bits, the 256 of xterm, or none but the terminal's own two."""

Colour = tuple[int, int, int]

_SHADES = " ░▒▓█"
_CUBE = (0, 95, 135, 175, 215, 255)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# a terminal that knows synchronized output shows each change whole; others ignore these
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"


def half_blocks(image: NDArray[Any], depth: Depth) -> list[str]:
    """Draw a picture with two pixels per character cell, one above the other.

    Args:
        image: (H, W, 3) uint8, H even.
        depth: the colours there are; without any, the ink is shaded.

    Returns:
        H / 2 lines, each W cells wide, with colours reset at its end.
    """
    rows = image.tolist()
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return [_line(top, bottom, depth) for top, bottom in pairs]


def _line(top: list[Colour], bottom: list[Colour], depth: Depth) -> str:
    if depth == "none":
        levels = (sum(a) + sum(b) for a, b in zip(top, bottom, strict=True))
        return "".join(_SHADES[min(4, level * 5 // 1531)] for level in levels)
    parts, last = [], ""
    for upper, lower in zip(top, bottom, strict=True):
        colour = f"\x1b[38;{_code(upper, depth)};48;{_code(lower, depth)}m"
        parts.append("▀" if colour == last else colour + "▀")
        last = colour
    return "".join(parts) + "\x1b[0m"


def _code(colour: Sequence[int], depth: Depth) -> str:
    red, green, blue = colour
    if depth == "truecolor":
        return f"2;{red};{green};{blue}"
    if max(colour) - min(colour) < 12:
        # 16 and 231 are black and white, 232 to 255 the greys 8, 18, ... 238
        level = round((sum(colour) / 3 - 8) / 10)
        return f"5;{16 if level < 0 else 231 if level > 23 else 232 + level}"
    near = [min(range(6), key=lambda i, v=value: abs(_CUBE[i] - v)) for value in colour]  # type: ignore[misc]
    return f"5;{16 + 36 * near[0] + 6 * near[1] + near[2]}"


def width_of(line: str) -> int:
    """Cells a line takes; its characters are all one cell wide."""
    return len(_ESCAPE.sub("", line))


def size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal behind `stream`, 80 and 24 where it does not say."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, rows or 24


class Screen:
    """A few lines at the bottom of a terminal that are rewritten in place.

    Only lines that changed are written, each over the old one before what is left of that is
    erased: nothing is ever blank in between, so nothing flickers.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._columns = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the last ones; each must fit the width."""
        columns, _ = size(self._stream)
        old = self._lines if columns == self._columns else []
        text = "" if old else self._clear()
        if len(lines) < len(old):
            text, old = self._clear(), []
        if list(lines) == old and old:
            return
        if old:
            text += f"\r\x1b[{len(old) - 1}A" if len(old) > 1 else "\r"
        for index, line in enumerate(lines):
            if index:
                text += "\n\r" if index >= len(old) else "\x1b[B\r"
            if index >= len(old) or line != old[index]:
                text += f"{line}\x1b[K"
        self._write(f"\x1b[?25l{text}")
        self._lines, self._columns = list(lines), columns

    def above(self, text: str) -> None:
        """Print a line that stays, above the ones that are rewritten."""
        lines = self._lines
        body = "".join(f"\n{line}\x1b[K" for line in lines)
        self._write(f"{self._clear()}{text}{body or chr(10)}")
        self._columns, _ = size(self._stream)

    def close(self, lines: Sequence[str] = ()) -> None:
        """Leave these lines behind, and the cursor below them."""
        body = "".join(f"{line}\n" for line in lines)
        self._write(f"{self._clear()}{body}\x1b[?25h")
        self._lines = []

    def _clear(self) -> str:
        """Go to the start of the lines and erase them, also where a resize has wrapped them."""
        if not self._lines:
            return ""
        columns, _ = size(self._stream)
        rows = sum(max(1, math.ceil(width_of(line) / columns)) for line in self._lines)
        return f"\r\x1b[{rows - 1}A\x1b[J" if rows > 1 else "\r\x1b[J"

    def _write(self, text: str) -> None:
        self._stream.write(f"{_BEGIN}{text}{_END}")
        self._stream.flush()
