"""Draw what a command shows in a terminal: `python docs/terminal_picture.py OUT.png -- COMMAND`.

    python docs/terminal_picture.py docs/images/training-dark.png --size 80x24 --theme dark \
        --when "epoch  4/5" -- vaecli train --epochs 5 --data digits

The command runs at a terminal of that size (a pseudo-terminal read by pyte, which takes the
place of a terminal program). With --when the picture is of the moment at which that text has
first been on the screen for a little while; without it, of the end.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import matplotlib
import pyte
from PIL import Image, ImageDraw, ImageFont

CELL = (8, 16)
MARGIN = 10
THEMES = {"dark": ("#1e1e2e", "#d8dee9"), "light": ("#ffffff", "#24292f")}
NAMES = {
    "cyan": "#2aa1b3",
    "red": "#c01c28",
    "green": "#26a269",
    "brown": "#a2734c",
    "brightblack": "#8a8a96",
}
LINES = {"━": (0, CELL[0]), "╸": (0, CELL[0] // 2), "╺": (CELL[0] // 2, CELL[0])}
"""Where the thick lines of a bar begin and end in a cell."""
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"


def play(
    command: list[str], columns: int, rows: int, environment: dict[str, str], when: str | None
) -> pyte.Screen:
    """Run `command` at a terminal; the screen at its end, or a moment after `when` appears."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    since = None
    while True:
        if select.select([ours], [], [], 0.03)[0]:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not data:
                break
            stream.feed(data)
        shown = when is not None and any(when in line for line in screen.display)
        if since is None:
            since = time.monotonic() if shown else None
        # not in the middle of a frame, where the text is wiped and not yet written again
        elif shown and time.monotonic() > since + 0.3 and not select.select([ours], [], [], 0)[0]:
            break
    if process.poll() is None and since is not None:
        process.terminate()
    while process.poll() is None:  # it may still want to say goodbye
        if select.select([ours], [], [], 0.1)[0]:
            try:
                os.read(ours, 1 << 16)
            except OSError:
                break
    process.wait()
    os.close(ours)
    return screen


def draw(screen: pyte.Screen, theme: str) -> Image.Image:
    """The screen as a picture, without the empty lines at its end."""
    ground, ink = THEMES[theme]
    rows = max((index for index, line in enumerate(screen.display) if line.strip()), default=0) + 1
    width, height = CELL
    size = (screen.columns * width + 2 * MARGIN, rows * height + 2 * MARGIN)
    picture = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(FONT), 13)
    for row in range(rows):
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            x, y = MARGIN + column * width, MARGIN + row * height
            front, back = _colour(cell.fg, ink), _colour(cell.bg, ground)
            if back != ground:
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=back)
            if cell.data == "▀":
                pen.rectangle((x, y, x + width - 1, y + height // 2 - 1), fill=front)
            elif cell.data in LINES:
                left, right = LINES[cell.data]
                middle = y + height // 2
                pen.rectangle((x + left, middle - 1, x + right - 1, middle + 1), fill=front)
            elif cell.data.strip():
                pen.text((x, y), cell.data, fill=front, font=font)
    return picture


def _colour(name: str, default: str) -> str:
    if name == "default":
        return default
    return NAMES.get(name, f"#{name}" if len(name) == 6 else default)


def main() -> None:
    """Parse the command line, run the command and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", default="80x24", help="columns x rows")
    parser.add_argument("--theme", choices=THEMES, default="dark")
    parser.add_argument("--when", help="take the picture when this text is on the screen")
    parser.add_argument("--term", default="xterm-256color")
    parser.add_argument("--no-color", action="store_true", help="set NO_COLOR")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    columns, rows = map(int, arguments.size.split("x"))
    environment = {**os.environ, "TERM": arguments.term, "COLORTERM": "truecolor"}
    if arguments.no_color:
        environment["NO_COLOR"] = "1"
    command = arguments.command
    if command[0] == "vaecli":
        command = [sys.executable, "-m", "vaecli", *command[1:]]
    screen = play(command, columns, rows, environment, arguments.when)
    draw(screen, arguments.theme).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
