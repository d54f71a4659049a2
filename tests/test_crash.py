"""Kills, errors and power loss at every call that changes the disk: nothing committed is lost."""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broken_disk import CALLS, BreakingSystem, PowerLoss, RecordingSystem, disk
from command import bug_expected
from test_training import DATASET
from vaecli.cli import app, commands
from vaecli.data.reading import Reading
from vaecli.errors import ExitCode
from vaecli.runs.directory import MANIFEST, METRICS, OWN_FILES, STATE, WEIGHTS, open_run
from vaecli.system import files, locks
from vaecli.training import loop, planning
from vaecli.training.checkpoint import Checkpoints
from vaecli.training.plan import Request
from vaecli.training.settings import Settings

FEWEST_POINTS = 60
SETTINGS = Settings(hidden=(4,), latent_dim=2, batch_size=16, epochs=2, patience=2)


ON_WINDOWS = vars(files)["os"].name == "nt"
"""Or on its double, which tells vaecli's files so."""
refused_at_once = pytest.mark.skipif(
    ON_WINDOWS, reason="Windows says so of a file held open: tests/test_windows.py"
)
names_synced = pytest.mark.skipif(
    ON_WINDOWS, reason="Windows has no call that syncs the names in a folder"
)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit after each epoch."""
    monkeypatch.setattr("vaecli.training.commits.COMMIT_EVERY", 0)
    monkeypatch.setattr("vaecli.data.catalogue.NAMES", (DATASET.name,))


def train(output: Path) -> None:
    """What `vaecli train -o OUTPUT` does between its options and its last line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaecli.data.catalogue.load", lambda *others: DATASET)
        plan = planning.plan(Request(SETTINGS, output=output), Reading())
    if plan.status != "finished":
        with plan.opened() as target:
            for _ in loop.train(target, plan.dataset):
                pass


def train_at_the_boundary(output: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The same behind the exception boundary of the command line; its exit code."""
    monkeypatch.setattr(commands, "invoke", lambda *command_line: train(output))
    with bug_expected("unexpected Killed"):  # a death that only this process survives
        return app.run([])


def result(run: Path) -> tuple[str, list[list[str]]]:
    """What must not depend on faults: the SHA-256 of the weights, and metrics but for times."""
    with (run / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    timing = ("images_per_second", "seconds")
    untimed = [[value for name, value in row.items() if name not in timing] for row in rows]
    return hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest(), untimed


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[list[str]]]:
    """The result of a run that nothing disturbs."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(run)
    return result(run)


def assert_whole(run: Path) -> None:
    """A finished run holds its files, two generations, and nothing else."""
    assert {path.name for path in run.iterdir()} == {*OWN_FILES, STATE}
    state = {path.name for path in (run / STATE).iterdir()}
    generations = {name for name in state if name.startswith("generation-")}
    # a process that was killed while it left may leave the name of the holder
    assert {MANIFEST} < state - generations <= {MANIFEST, *locks.LOCK_FILES}
    assert len(generations) == 2
    assert Checkpoints.of(open_run(run)).finished


def newest(run: Path) -> int:
    """The number of the generation that the manifest calls the newest; 0 for none."""
    path = run / STATE / MANIFEST
    if not path.exists():
        return 0
    return int(json.loads(path.read_text())["generations"][0]["file"][11:17])


def commits(log: list[tuple[str, str]]) -> int:
    """How many commits a process made: a generation took its name, and then the manifest."""
    generations = committed = 0
    for name, path in log:
        if name == "replace":
            generations += "generation-" in path
            committed = generations if path.endswith(MANIFEST) else committed
    return committed


def every_call(
    folder: Path,
    fault: str,
    kinds: tuple[str, ...] = CALLS,
    least: int = FEWEST_POINTS,
    step: int = 1,
) -> Iterator[tuple[BreakingSystem, Path]]:
    """A disk that breaks at the N-th call and a folder for the run, for N until none breaks."""
    for when in itertools.count(1, step):
        system, run = BreakingSystem(when, fault, kinds), folder / str(when)
        yield system, run
        if system.broken is None:
            assert when > least
            return
        shutil.rmtree(run, ignore_errors=True)


@pytest.mark.timeout(480)
@pytest.mark.parametrize(
    ("fault", "kinds", "least"), [("kill", CALLS, FEWEST_POINTS), ("torn", ("write",), 15)]
)
def test_killed_at_every_call_and_continued(
    tmp_path: Path,
    reference: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
    kinds: tuple[str, ...],
    least: int,
) -> None:
    """The same command goes on from the newest commit and ends in the same bytes."""
    for system, run in every_call(tmp_path, fault, kinds, least):
        with disk(system):
            train_at_the_boundary(run, monkeypatch)
        done = system.log[:-1] if system.broken else system.log
        assert newest(run) == commits(done), system.broken
        capfd.readouterr()
        assert train_at_the_boundary(run, monkeypatch) == 0, system.broken
        assert "falling back" not in capfd.readouterr().err
        assert result(run) == reference, system.broken
        assert_whole(run)


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("ENOSPC", 1),
        ("EIO", 7),  # these take the same ways
        pytest.param("EACCES", 7, marks=refused_at_once),
    ],
)
def test_an_error_at_every_call_is_exit_5_and_costs_nothing(
    tmp_path: Path,
    reference: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
    step: int,
) -> None:
    """The old state loads, and the same command goes on from it to the same bytes."""
    for point, (system, run) in enumerate(every_call(tmp_path, fault, step=step)):
        with disk(system):
            code = train_at_the_boundary(run, monkeypatch)
        err = capfd.readouterr().err
        assert "Traceback" not in err
        if system.broken is None or is_harmless(system.broken):
            assert (code, err) == (ExitCode.OK, "")
        else:
            assert code == ExitCode.ENVIRONMENT, (err, system.broken)
            assert err.count("\n") == 1
            assert os.strerror(getattr(errno, fault)) in err
        if system.broken and MANIFEST in system.broken[1]:  # before its rename, or after it
            assert newest(run) - commits(system.log) in (0, -1)
        else:
            assert newest(run) == commits(system.log)
        assert_intact(run)
        if point % 4 == 0:  # the others are in the same states; `slow` tries them all from outside
            assert train_at_the_boundary(run, monkeypatch) == 0, system.broken
            assert result(run) == reference, system.broken
            assert_whole(run)


def assert_intact(run: Path) -> None:
    """Every generation the manifest names is there, byte for byte."""
    path = run / STATE / MANIFEST
    if path.exists():
        for entry in json.loads(path.read_text())["generations"]:
            data = (run / STATE / entry["file"]).read_bytes()
            assert (len(data), files.sha256(data)) == (entry["size"], entry["sha256"])


def is_harmless(call: tuple[str, str]) -> bool:
    """Whether its failure costs nothing: a leftover, or the name of the holder, a courtesy."""
    name, path = call
    being_written = f"{files.TEMPORARY_PREFIX}{os.getpid()}-" in path
    return path.endswith("holder") or (name == "unlink" and not being_written)


SEEDS = 2000


@names_synced
def test_power_loss_corrupts_no_commit(tmp_path: Path, reference: object) -> None:
    """Whatever is lost of what was not synced: a commit that was made is there and undamaged.

    That `commit` goes on to model.safetensors is the promise.  Where power fails before, the
    manifest may be the new one or the old one, but what it names must be there.
    """
    recorder = RecordingSystem()
    with disk(recorder):
        train(tmp_path / "run")
    rng = random.Random(0)
    lengths = sorted(rng.randrange(len(recorder.trace) + 1) for _ in range(SEEDS))
    power_loss, played = PowerLoss(tmp_path), 0
    crashed, promises = tmp_path / "crashed", set()
    for index, length in enumerate(lengths):
        for call in recorder.trace[played:length]:
            power_loss.play(call)
        played = length
        power_loss.crash(rng, crashed)
        run = crashed / "run"
        promised = promised_commits(recorder.trace[:length])
        assert newest(run) in (promised, promised + 1), recorder.trace[length - 1][:2]
        assert_intact(run)
        promises.add(promised)
        if index % 100 == 0:
            train(run)
            assert result(run) == reference
        shutil.rmtree(crashed)
    assert promises == {0, 1, 2}


def promised_commits(trace: list[tuple[Any, ...]]) -> int:
    """How many commits a process had made when it went on to what follows from them."""
    begun = [call[1] for call in trace if call[0] == "create"]
    return sum(path.endswith(WEIGHTS) for path in begun)
