"""What a shell completes: options, and values where they are known; quickly, and never wrongly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_layers import modules_after
from vaecli.cli import completion
from vaecli.data import catalogue


def completed(line: str, shell: str = "bash") -> list[str]:
    """What `vaecli` answers to a shell for the last word of `line`."""
    words = line.split(" ")
    asked = {
        "_VAECLI_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "vaecli"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def _with_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("001-mnist-mlp", "002-photos-conv"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "vaecli.toml").write_text("not a configuration")


@pytest.mark.usefixtures("_with_runs")
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("vaecli ", ["train", "eval", "reconstruct", "sample", "export"]),
        ("vaecli train --lik", ["--likelihood"]),
        (
            "vaecli train --likelihood ",
            ["bernoulli", "continuous-bernoulli", "gaussian", "logistic", "logistic-mixture"],
        ),
        ("vaecli train --arch c", ["conv"]),
        ("vaecli train --data ", list(completion.DATA_NAMES)),
        ("vaecli eval -d fa", ["fashion-mnist"]),
        ("vaecli train --data ph", []),
        ("vaecli sample -m ", ["latest", "digits", "runs/002-photos-conv", "runs/001-mnist-mlp"]),
        ("vaecli train --resume runs/001", ["runs/001-mnist-mlp"]),
        ("vaecli export --format ", ["onnx", "pt2", "html", "safetensors", "hub"]),
        ("vaecli eval --device c", ["cpu", "cuda"]),
    ],
)
def test_bash_is_told(line: str, answer: list[str]) -> None:
    assert completed(line) == answer


def test_the_names_are_those_of_the_data_sets() -> None:
    assert {*completion.DATA_NAMES} == {catalogue.AUTO, *catalogue.NAMES}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes(tmp_path: Path) -> None:
    """The script that `--show-completion` prints, sourced and called as bash calls it."""
    program = tmp_path / "bin/vaecli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vaecli "$@"\n')
    program.chmod(0o755)
    session = """
        source <(vaecli --show-completion bash)
        COMP_WORDS=(vaecli train --arch "") COMP_CWORD=3
        _vaecli_completion vaecli
        echo "${COMPREPLY[*]}"
    """
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", session],
        env={**os.environ, "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "auto mlp conv grid\n", done.stderr


def test_completing_is_quick() -> None:
    """No word is worth the seconds that torch takes."""
    asked = """
import os, runpy
os.environ |= {"_VAECLI_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
os.environ["COMP_WORDS"] = "vaecli train --data "
try:
    runpy.run_module("vaecli", run_name="__main__")
except SystemExit:
    print()"""
    assert not {"torch", "numpy"} & modules_after(asked)
