"""docs/sweeps.md: both loops run as they stand, smaller, and choose by held-out images."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/sweeps.md").read_text()


def block(language: str) -> str:
    found, *_ = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def best_held_out(run: Path) -> float:
    with (run / "metrics.csv").open() as file:
        return min(float(row["held_out_loss"]) for row in csv.DictReader(file))


def test_the_loop_of_the_shell_chooses_by_held_out_images(data_dir: Path, tmp_path: Path) -> None:
    """Given again, it finds everything finished and answers the same."""
    shell = block("sh").replace("vaecli train", f"{sys.executable} -m vaecli train -e 2 -q")
    answers = []
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", shell.replace("8 16 32", "1 8")],
            env={**os.environ, "VAECLI_DATA_DIR": str(data_dir), "VAECLI_NO_DOWNLOAD": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert answers[0] == answers[1]
    losses = {f"runs/dim-{dim}": best_held_out(tmp_path / f"runs/dim-{dim}") for dim in (1, 8)}
    run, loss = answers[0].split()
    assert run == min(losses, key=lambda name: losses[name])
    assert float(loss) == pytest.approx(losses[run], abs=0.006)


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs `--group trackers`")
def test_the_study_of_optuna(data_dir: Path, tmp_path: Path) -> None:
    code = block("py").replace("n_trials=20", "n_trials=2").replace("epochs=10", "epochs=1")
    code = code.replace('"mnist", o', f'"mnist", data_dir={str(data_dir)!r}, download=False, o')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run, loss, *_ = done.stdout.split()
    runs = sorted((tmp_path / "runs/sweep").iterdir())
    assert [path.name for path in runs] == ["000", "001"]
    losses = {str(path.relative_to(tmp_path)): best_held_out(path) for path in runs}
    assert run == min(losses, key=lambda name: losses[name])
    assert float(loss) == pytest.approx(losses[run], abs=1e-5)
