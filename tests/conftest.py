"""Shared fixtures: a tiny data set in MNIST's own format, a trained run, the command line."""

from __future__ import annotations

import functools
import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import surroundings

surroundings.forget_the_machine()  # before anything is imported that reads variables

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray

import command
from vaecli.cli import app
from vaecli.data.named import digits
from vaecli.pictures import plots

REPOSITORY = Path(__file__).resolve().parent.parent

# a process builds its commands once; so do these tests, which are one process
typer.main.get_command = functools.cache(typer.main.get_command)
app.run = command.checked(app.run)  # type: ignore[assignment]
subprocess.Popen = command.CheckedPopen  # type: ignore[misc]

REAL_FIGURES = {"curves": plots.curves, "latents": plots.latents}
# they take most of the time of a small training; tests that look at them ask for `real_figures`
for _name in REAL_FIGURES:
    setattr(plots, _name, lambda *values, name=_name, **named: name.encode())

unpickled: list[str] = []
"""Every class a pickle asked for while the suite ran; there must be none."""


def _no_pickles(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        unpickled.append(".".join(map(str, arguments)))
        raise AssertionError(f"something was unpickled: {unpickled[-1]}")


sys.addaudithook(_no_pickles)


_files_before = surroundings.files_of(REPOSITORY)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the suite for a pickle even where the error it got was swallowed, and for new files."""
    surroundings.end_guard()  # what follows is pytest's own
    problems = [f"unpickled: {name}" for name in sorted(set(unpickled))]
    new = surroundings.files_of(REPOSITORY) - _files_before
    problems += [f"written into the repository: {path}" for path in sorted(new)]
    if problems:
        print("", *problems, sep="\n", file=sys.__stderr__)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Surroundings of what is made once for many tests; a folder for the homes of the tests."""
    with surroundings.guarded(tmp_path_factory.getbasetemp()) as folder:
        yield folder


@pytest.fixture(autouse=True)
def _own_home(
    _own_surroundings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A home of its own for each test, for what it starts too, and nothing done outside it."""
    with surroundings.home(_own_surroundings, monkeypatch):
        monkeypatch.chdir(tmp_path)
        yield
    surroundings.require_innocence()


@dataclass(frozen=True)
class Outcome:
    """What one command line did."""

    code: int
    out: str
    err: str


Vaecli = Callable[..., Outcome]


@pytest.fixture
def real_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures themselves."""
    for name, draw in REAL_FIGURES.items():
        monkeypatch.setattr(plots, name, draw)


@pytest.fixture
def vaecli(capfd: pytest.CaptureFixture[str]) -> Vaecli:
    """Run a command line in an empty folder; command.py judges it."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        threads = torch.get_num_threads()
        code = app.run([str(argument) for argument in arguments])
        torch.set_num_threads(threads)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def write_mnist(folder: Path, train: int, test: int, seed: int = 0) -> None:
    """Drawn digits as the four files of MNIST, in torchvision's layout."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for prefix, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        pixels = digits._draw(rng, labels)
        write_idx(folder / f"MNIST/raw/{prefix}-images-idx3-ubyte.gz", pixels[:, 0])
        write_idx(folder / f"MNIST/raw/{prefix}-labels-idx1-ubyte.gz", labels)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of named sets whose `mnist` has 500 training and 130 test digits."""
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder, 500, 130)
    return folder


TRAIN = ("train", "--data", "mnist", "--hidden", "64", "--latent-dim", "8", "--batch-size", "64")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A finished run of two epochs; read it, never write to it."""
    path = tmp_path_factory.mktemp("trained") / "run"
    arguments = [*TRAIN, "--epochs", "2", "--data-dir", str(data_dir), "-o", str(path), "-q"]
    assert app.run(arguments) == 0
    return path


def real_mnist() -> Path | None:
    """A folder with the real MNIST files, or None."""
    for folder in (os.environ.get("VAECLI_TEST_DATA"), REPOSITORY.parent / "shared" / "data"):
        if folder and (Path(folder) / "MNIST/raw").is_dir():
            return Path(folder)
    return None


needs_mnist = pytest.mark.skipif(
    real_mnist() is None,
    reason="needs the real MNIST files: set VAECLI_TEST_DATA to a folder with MNIST/raw/",
)
