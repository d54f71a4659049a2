"""Whole commands at a pseudo-terminal, read by an emulator."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import REPOSITORY, TRAIN
from vaecli.terminal import preview

pytest.importorskip("pyte", reason="needs pyte, a terminal emulator: the test group has it")
pytest.importorskip("pty", reason="needs pseudo-terminals")

PICTURE = runpy.run_path(str(REPOSITORY / "docs/terminal_picture.py"))
PANEL = (
    r"epoch +\d+/500 ━*╸? +\d+ % \d+:\d\d left\n"
    r"loss \d+\.\d+ nats/image    distortion \d+\.\d+ \+ rate \d+\.\d+    [\d,]+ images/s$"
)
NARROW_PANEL = (
    r"epoch +\d+/500 ━*╸? +\d+ % \d+:\d\d left\n"
    r"loss \d+\.\d+ nats/image\ndistortion \d+\.\d+ \+ rate \d+\.\d+\n[\d,]+ images/s$"
)

Play = Callable[..., Any]


@pytest.fixture
def play(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run vaecli at a terminal in an empty folder; returns the screen."""
    monkeypatch.chdir(tmp_path)

    def run(
        *arguments: object,
        columns: int = 80,
        rows: int = 30,
        when: str | None = None,
        **environment: str,
    ) -> Any:
        command = [sys.executable, "-m", "vaecli", *map(str, arguments)]
        variables = {
            **os.environ,
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "VAECLI_DATA_DIR": str(data_dir),
            "PYTHONIOENCODING": "utf-8",
            **environment,
        }
        return PICTURE["play"](command, columns, rows, variables, when)

    return run


def text(screen: Any) -> str:
    return "\n".join(line.rstrip() for line in screen.display).rstrip()


@pytest.mark.parametrize("columns", [80, 40])
def test_the_panel_and_what_stays_of_it(play: Play, columns: int) -> None:
    screen = play(*TRAIN, "--epochs", "2", "-o", "run", columns=columns)
    lines = text(screen).splitlines()
    assert lines[-1] == "run"
    assert sum("▀" in line for line in lines) == 14
    across = {80: 5, 40: 2}[columns]
    assert {len(line) for line in lines if "▀" in line} == {15 * across - 1}
    assert [line for line in lines if re.match(r"epoch [12]/2  train", line)] == lines[-17:-15]
    assert not re.search("left$", text(screen), re.M)
    assert not screen.cursor.hidden
    # prose ends its lines between words
    introduction = lines[: next(i for i, line in enumerate(lines) if line.startswith("epoch"))]
    assert len(introduction) >= 2
    assert {"parameters,", "images", "784-64-8-64-784,"} <= set(" ".join(introduction).split())
    assert all(len(line) < columns for line in introduction)


@pytest.mark.parametrize(("columns", "panel"), [(80, PANEL), (40, NARROW_PANEL)])
def test_live_lines(play: Play, columns: int, panel: str) -> None:
    arguments = (*TRAIN, "--epochs", "500", "--no-preview", "-o", "run")
    screen = play(*arguments, NO_COLOR="1", columns=columns, rows=12, when="nats/image")
    assert "▀" not in text(screen)
    assert re.search(panel, text(screen)), text(screen)


def test_without_colours_the_pictures_are_shaded(play: Play, trained: Path) -> None:
    screen = play("sample", "-m", trained, "-n", "4", NO_COLOR="1")
    assert re.search("[░▒▓█]", text(screen))
    cells = [cell for row in screen.buffer.values() for cell in row.values()]
    assert {cell.fg for cell in cells} | {cell.bg for cell in cells} == {"default"}


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_terminals_without_pictures(play: Play, trained: Path, environment: dict[str, str]) -> None:
    assert text(play("sample", "-m", trained, **environment)) == "samples.png"


def test_reconstructions_beside_and_above(play: Play, trained: Path) -> None:
    grid = text(play("reconstruct", "-m", trained, rows=60)).splitlines()
    assert grid[0].startswith("reconstructions.png")
    assert len(grid) == 1 + 14
    single = text(play("reconstruct", "reconstructions.png", "-m", trained)).splitlines()
    assert [len(line) for line in single[-14:]] == [57] * 14
    assert "▀" not in text(play("reconstruct", "-m", trained, "--no-preview"))


def test_a_pipe_gets_no_escape(trained: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "vaecli", "sample", "--preview", "-m", str(trained)]
    outcome = subprocess.run(
        command, capture_output=True, check=True, cwd=tmp_path, env=environment
    )
    assert outcome.stdout == b"samples.png\n"
    assert outcome.stderr == b""


def test_pictures_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.01, 0.5, 2.1, 2.11, 2.2, 2.21])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    terminal = SimpleNamespace(draws=True, live=True)
    pictures = preview.TrainingPreview(terminal, None, None)  # type: ignore[arg-type]
    picture, drawn = object(), []

    def draw() -> object:
        drawn.append(picture)
        return picture

    monkeypatch.setattr(pictures, "_draw", draw)
    assert pictures.picture() is picture
    assert pictures.picture() is picture  # 0.5 s: 0.01 s is more than 0.5 % of it
    assert len(drawn) == 1
    pictures.picture()  # 2.1 s
    assert len(drawn) == 2
    pictures.picture(last=True)
    assert len(drawn) == 3
    terminal.draws = False
    assert pictures.picture() is None
