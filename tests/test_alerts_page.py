"""docs/alerts.md: its commands and its script for cron work as they stand."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY, Vaecli
from pages import blocks

PAGE = REPOSITORY / "docs/alerts.md"


def test_the_commands_work_and_the_script_prints_what_is_strange(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, after the commands before it; photos are grey ramps, the strange one is noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(60, 120, 16)
    for folder, count in (("photos", 1100), ("new", 5)):
        Path(folder).mkdir()
        for index in range(count):
            pixels = (ramp * rng.uniform(0.8, 1.2) + rng.normal(0, 2, (16, 16))).round()
            Image.fromarray(pixels.astype(np.uint8)).save(f"{folder}/{index:04}.png")
    for name, value in (("EPOCHS", "3"), ("HIDDEN", "32")):
        monkeypatch.setenv(f"VAECLI_TRAIN_{name}", value)
    for line in "".join(blocks(PAGE, "sh")).splitlines():
        assert vaecli(*shlex.split(line)[1:]).code == 0, line
    assert len(list(Path("mapped").glob("*.heatmap.png"))) == 5
    assert Path("verdicts.csv").read_text().count(",ok\n") == 5
    script = PAGE.read_text().split("```sh\n#!/bin/sh\n")[1].split("```")[0]
    Path("check.sh").write_text(script)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def check() -> tuple[int, str]:
        done = subprocess.run(
            ["sh", "check.sh"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PATH": path},
            check=False,
        )
        return done.returncode, done.stdout

    assert check() == (0, "")
    Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save("new/strange.png")
    code, said = check()
    assert code == 0
    first, *rows = said.splitlines()
    assert first == "These photos look strange:"
    assert [row.split(",")[1] for row in rows] == ["strange.png"]
    shutil.rmtree("runs")
    code, said = check()
    assert said.splitlines()[-1] == "The check itself failed."
    assert said.startswith("vaecli: error: no model at runs/camera")
