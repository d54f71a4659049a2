"""docs/notebooks/: each runs from an empty folder in seconds, and shows what is kept in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY

FOLDER = REPOSITORY / "docs/notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
Cell = dict[str, Any]


def cells(path: Path) -> list[Cell]:
    found: list[Cell] = json.loads(path.read_text())["cells"]
    return found


def texts(cell: Cell) -> str:
    return "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))


def words(cell: Cell) -> list[str]:
    """What is printed, without the digits of other machines."""
    return re.sub(r"[\d.]+", "N", texts(cell)).split()


def kinds(outputs: list[Any]) -> list[tuple[str, list[str]]]:
    """What kinds of outputs there are; how many pieces a text came in is a matter of time."""
    found = list[tuple[str, list[str]]]()
    for output in outputs:
        kind = output["output_type"], sorted(output.get("data", {}))
        if kind[0] != "stream" or kind not in found[-1:]:
            found.append(kind)
    return found


def executed(name: str, folder: Path) -> list[Cell]:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason="needs nbclient and ipykernel: `--group test`")
    command = [sys.executable, str(FOLDER / "execute.py"), str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return cells(folder / f"{name}.ipynb")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_is_kept(name: str, tmp_path: Path) -> None:
    kept, now = cells(FOLDER / f"{name}.ipynb"), executed(name, tmp_path)
    assert [cell["source"] for cell in now] == [cell["source"] for cell in kept]
    for then, cell in zip(kept, now, strict=True):
        shown = [kinds(each["outputs"]) for each in (then, cell) if "outputs" in each]
        stale = f"run docs/notebooks/execute.py: {''.join(cell['source'])}"
        assert shown[:1] == shown[1:], stale
        if name != "own_photos" or ".png" not in texts(cell):
            assert words(then) == words(cell), stale
    said = "".join(map(texts, now))
    if name == "own_photos":  # the three that do not belong come first
        found = re.findall(r"^(\d+)\.png", said, re.MULTILINE)
        assert set(found[:3]) == {"007", "077", "177"}
    else:  # what the page works out by hand is what vaecli says
        by_hand, by_vaecli = re.findall(r"^.*= +([\d.]+)$", said, re.MULTILINE)
        assert float(by_hand) == pytest.approx(float(by_vaecli), abs=0.5)
        closed, drawn = re.search(r"form ([\d.]+), mean over draws ([\d.]+)", said).groups()  # type: ignore[union-attr]
        assert float(closed) == pytest.approx(float(drawn), abs=0.1)
        without, right = re.search(r"noise ([\d.]+), with it ([\d.]+)", said).groups()  # type: ignore[union-attr]
        assert float(without) < float(right) - 3


def test_links_and_buttons_lead_to_files_of_the_repository() -> None:
    assert NAMES == ["own_photos", "vae_in_ten_minutes"]
    for name in NAMES:
        text = "".join("".join(cell["source"]) for cell in cells(FOLDER / f"{name}.ipynb"))
        own = re.findall(r"github(?:\.com)?/vaecli/vaecli/blob/main/([\w./-]+)", text)
        assert f"docs/notebooks/{name}.ipynb" in own
        assert "colab.research.google.com/github/vaecli" in text
        for path in own:
            assert (REPOSITORY / path).is_file(), path
        for target in re.findall(r"\]\(([\w.]+\.ipynb)\)", text):
            assert (FOLDER / target).is_file(), target


def test_nothing_of_the_machine_is_kept() -> None:
    for name in NAMES:
        text = (FOLDER / f"{name}.ipynb").read_text()
        assert len(text) < 500_000
        assert not re.search(r"/(tmp|root|home|usr)/", text)
        assert "Traceback" not in text
