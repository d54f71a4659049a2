"""`~` is the home folder wherever a path is given: options, variables, configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from conftest import Vaecli
from vaecli.cli.commands import app

PATHS = {"FILE", "FILE.png", "FILE.gif", "DIR", "OUT", "DATA", "RUN", "MODEL", "IMAGE", "INPUT"}
"""What help calls the value of an option that takes a path."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    (folder / "photos").mkdir(parents=True)
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{index}.png")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


def parameters() -> list[Any]:
    group: Any = typer.main.get_command(app)
    commands = {name: group.get_command(None, name) for name in group.list_commands(None)}
    return [
        pytest.param(parameter, id=f"{name} {parameter.name}")
        for name, command in commands.items()
        for parameter in command.params
        if parameter.metavar in PATHS and parameter.name != "config"  # which reads a file
    ]


@pytest.mark.parametrize("parameter", parameters())
def test_every_path_knows_the_home_folder(parameter: Any, home: Path) -> None:
    for given, expected in (("~/x", home / "x"), ("a/~/x", Path("a/~/x"))):
        many = parameter.nargs == -1 or getattr(parameter, "multiple", False)
        value = parameter.process_value(None, [given] if many else given)
        assert str(value[0] if many else value) == str(expected)


def test_no_path_is_forgotten() -> None:
    named = {parameter.values[0].name for parameter in parameters()}
    assert {"data", "output", "data_dir", "model", "resume", "inputs", "plot"} <= named


def test_a_file_a_variable_and_an_option(
    vaecli: Vaecli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = 'data-dir = "~/sets"\n[train]\nepochs = 1\nhidden = [8]\noutput = "~/runs/x"\n'
    (tmp_path / "vaecli.toml").write_text(settings)
    outcome = vaecli("train", "--data=~/photos", "-q")
    assert (outcome.code, outcome.out) == (0, f"{home / 'runs/x'}\n"), outcome.err
    assert (home / "sets/vaecli").is_dir()
    (tmp_path / "vaecli.toml").rename(home / "settings.toml")
    monkeypatch.setenv("VAECLI_CONFIG", "~/settings.toml")
    monkeypatch.setenv("VAECLI_MODEL", "~/runs/x")
    monkeypatch.setenv("VAECLI_RECONSTRUCT_OUTPUT", "~/out/")
    outcome = vaecli("reconstruct", "~/photos/3.png", "-q")
    assert (outcome.code, outcome.out) == (0, f"{home / 'out/3.recon.png'}\n"), outcome.err
    outcome = vaecli("sample", "--interpolate", "~/photos/1.png", "~/photos/2.png", "-q")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "~").exists()
