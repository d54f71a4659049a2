"""What the terminal shows, judged by an emulator that has nothing to do with our code."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rich.console import Console, Group
from rich.live import Live

from vaecli.terminal import half_blocks
from vaecli.terminal.preview import fit

pyte: Any = pytest.importorskip(
    "pyte", reason="needs pyte, a terminal emulator: the test group has it"
)

COLUMNS, ROWS = 40, 10


class Recorder(io.StringIO):
    """A stream that remembers each write, and is no terminal that could tell its size."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(half_blocks, "size", lambda _: (COLUMNS, ROWS))
    return Recorder()


def shown(terminal: Any) -> list[str]:
    return [line.rstrip() for line in terminal.display]


def characters(text: str) -> Iterator[str]:
    """One character, or one whole escape sequence, at a time."""
    while text:
        match = half_blocks._ESCAPE.match(text)
        length = match.end() if match else 1
        yield text[:length]
        text = text[length:]


def emulator() -> tuple[Any, Any]:
    terminal = pyte.Screen(COLUMNS, ROWS)
    terminal.set_mode(pyte.modes.LNM)  # the kernel turns a line feed into both
    return terminal, pyte.Stream(terminal)


def console_on(stream: Recorder, colours: str | None = "truecolor") -> Console:
    return Console(
        file=half_blocks.Frames(stream),  # type: ignore[arg-type]
        force_terminal=True,
        color_system=colours,  # type: ignore[arg-type]
        width=COLUMNS - 1,
        height=ROWS,
        highlight=False,
        _environ={},
    )


def drawn(image: np.ndarray[Any, Any], colours: str | None) -> str:
    """What a picture looks like to a terminal."""
    console = console_on(Recorder(), colours)
    picture = half_blocks.HalfBlocks([image[None]], console)
    with console.capture() as capture:
        console.print(picture, end="")
    return capture.get()


def display(stream: Recorder) -> Live:
    return Live(console=console_on(stream), auto_refresh=False)


def test_every_pixel_has_its_colour() -> None:
    image = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [128, 128, 128], [0, 95, 255]]
    for colours, error in (("truecolor", 0), ("256", 48)):
        terminal, emulated = emulator()
        emulated.feed(drawn(image, colours))
        for row, column in itertools.product(range(3), range(9)):
            cell = terminal.buffer[row][column]
            assert cell.data == "▀"
            for name, place in ((cell.fg, 2 * row), (cell.bg, 2 * row + 1)):
                found = [int(name[index : index + 2], 16) for index in (0, 2, 4)]
                assert np.abs(np.subtract(found, image[place, column])).max() <= error, name


@pytest.mark.parametrize("colours", [None, "standard"])
def test_with_few_colours_the_ink_is_shaded(colours: str | None) -> None:
    ramp = np.linspace(0, 255, 10).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (2, 10, 3))
    assert drawn(image, colours) == "  ░░▒▒▓▓██\n"


def test_lines_are_rewritten_in_place(stream: Recorder) -> None:
    terminal, emulated = emulator()
    emulated.feed("before\n")
    with display(stream) as lines:
        for number in range(30):
            content = ["picture", f"step {number}", "x" * (39 - number)][: 2 + number % 2]
            lines.update("\n".join(content), refresh=True)
            if number % 7 == 0:
                lines.console.print(f"note {number}")
            emulated.feed("".join(stream.writes))
            stream.writes.clear()
            assert [line for line in shown(terminal) if line][-len(content) :] == content
        assert terminal.cursor.hidden
        lines.update("picture")
    emulated.feed("".join(stream.writes) + "after")
    notes = [f"note {number}" for number in range(0, 30, 7)]
    assert [line for line in shown(terminal) if line] == ["before", *notes, "picture", "after"]
    assert not terminal.cursor.hidden


def test_nothing_that_stays_is_ever_blank(stream: Recorder) -> None:
    terminal, emulated = emulator()
    with display(stream) as lines:
        lines.update("picture\nstep 100\nloss 100", refresh=True)
        emulated.feed("".join(stream.writes))
        for number in range(100, 120):
            stream.writes.clear()
            lines.update(f"picture\nstep {number}\nloss {number}", refresh=True)
            for part in characters("".join(stream.writes)):
                emulated.feed(part)
                assert terminal.display[0].startswith("picture")
                assert terminal.display[1].startswith("step 1")
                assert terminal.display[2].startswith("loss 1")


def test_only_what_changed_is_written_in_one_go(stream: Recorder) -> None:
    with display(stream) as lines:
        picture = half_blocks.HalfBlocks([np.zeros((1, 14, 30, 3), np.uint8)], lines.console)
        lines.update(Group(picture, "step 1"), refresh=True)
        stream.writes.clear()
        lines.update(Group(picture, "step 2"), refresh=True)
        assert len(stream.writes) == 1
        assert len(stream.writes[0]) < 80


def test_a_narrower_terminal_is_cleaned_up(
    stream: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with display(stream) as lines:
        lines.update("a" * 39 + "\nb", refresh=True)
        # the terminal has wrapped the first line into two
        terminal = pyte.Screen(20, ROWS)
        terminal.set_mode(pyte.modes.LNM)
        emulated = pyte.Stream(terminal)
        emulated.feed(f"{'a' * 20}\n{'a' * 19}\nb")
        monkeypatch.setattr(half_blocks, "size", lambda _: (20, ROWS))
        stream.writes.clear()
        lines.update("c\nd", refresh=True)
        emulated.feed("".join(stream.writes))
        assert [line for line in shown(terminal) if line] == ["c", "d"]


@pytest.mark.parametrize("columns", [12, 40, 80, 200])
@pytest.mark.parametrize("rows", [3, 10, 24, 60])
@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (17, 30), (1, 200)])
def test_tiles_fit_the_terminal(columns: int, rows: int, shape: tuple[int, int]) -> None:
    tiles = fit(shape, 8, 2, columns, rows)
    assert tiles.height % 2 == 0
    assert tiles.height >= 2
    assert 1 <= tiles.across <= 8
    assert tiles.down * tiles.height // 2 <= rows
    if tiles.across > 1:
        assert tiles.across * (tiles.width + 1) - 1 <= columns
