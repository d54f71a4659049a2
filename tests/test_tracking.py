"""--track: what the trackers themselves wrote is compared with metrics.csv and the run."""

from __future__ import annotations

import csv
import ctypes
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import tracker_files
from command import VAECLI, process
from conftest import TRAIN, Vaecli
from test_training import DATASET, make_run
from tracker_files import Read
from vaecli.errors import ExitCode
from vaecli.runs.directory import METRICS, WEIGHTS, open_run
from vaecli.system import extras, files
from vaecli.tracking import names, trackers
from vaecli.tracking.follow import follow, record
from vaecli.tracking.trackers import TrackedRun
from vaecli.training import loop
from vaecli.training.events import Drawn, Event, Notice

MISSING = [
    name
    for name in names.CLASSES
    if any(importlib.util.find_spec(package) is None for package in extras.EXTRAS[name])
]
needs_trackers = pytest.mark.skipif(
    bool(MISSING), reason=f"needs vaecli[{','.join(MISSING)}], as `--group trackers` installs"
)
TRACK = [word for name in names.CLASSES for word in ("--track", name)]
TIMING = {"images_per_second", "seconds"}


@dataclass(frozen=True)
class Place:
    """A folder that commands run in, and the folder of Trackio; one MLflow store serves all."""

    folder: Path
    data: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"TRACKIO_DIR": str(self.folder / "trackio"), "WANDB_DIR": str(self.folder)}

    def command(self, *words: object) -> list[str]:
        return [*map(str, words), "--data-dir", str(self.data), "--no-download"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Place:
    return Place(tmp_path_factory.mktemp("tracked"), data_dir)


@pytest.fixture
def variables(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)


def rows(run: Path) -> dict[int, dict[str, float]]:
    with (run / METRICS).open() as file:
        found = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return {int(row.pop("epoch")): row for row in found}


def read_all(place: Place, run: Path) -> dict[str, Read]:
    known = open_run(run).tracking_id()
    return {
        "tensorboard": tracker_files.tensorboard(run),
        "mlflow": tracker_files.mlflow(place.folder, known),
        "wandb": tracker_files.wandb(place.folder, known),
        "trackio": tracker_files.trackio(place.folder / "trackio", known),
    }


def assert_one_curve(read: Read, run: Path, *, without: set[str]) -> None:
    """Each epoch once, with the values of metrics.csv."""
    for name in next(iter(rows(run).values())):
        values = read.metrics[name]
        assert sorted(values) == sorted(rows(run)), name
        for epoch, found in values.items():
            assert len(found) == 1, (name, epoch)
            if name not in without:
                expected = rows(run)[epoch][name]
                assert found[0] == pytest.approx(
                    expected, rel=1e-6, abs=0.51 if name in TIMING else 1e-6
                )


@needs_trackers
@pytest.mark.usefixtures("variables")
def test_values_read_back_are_those_of_the_run(place: Place) -> None:
    run = place.folder / "whole"
    done = process(*place.command(*TRAIN, "-e", 3, "-o", run, *TRACK), cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}\n"  # nothing of theirs
    assert "warning" not in done.stderr.lower()
    assert not {"wandb:", "mlflow", "trackio", "tensorboard"} & set(done.stderr.split())
    digest = files.sha256((run / WEIGHTS).read_bytes())
    for name, read in read_all(place, run).items():
        assert_one_curve(read, run, without=set())
        assert read.settings["training.epochs"] == "3", name
        assert read.settings["model.latent_dim"] == "8", name
        assert read.settings["data.name"] == "mnist", name
        assert digest in read.texts, name
        assert str(run) in read.texts + str(read.settings), name
        assert read.pictures.keys() == {"curves", "latents", "reconstructions", "samples"}, name
        for picture, found in read.pictures.items():
            if isinstance(found, bytes):
                assert found == (run / f"{picture}.png").read_bytes(), name
            else:
                assert min(found) > 100, name


@needs_trackers
@pytest.mark.usefixtures("variables")
def test_killed_at_a_random_moment_and_continued_is_one_curve(place: Place) -> None:
    run = place.folder / "killed"
    words = place.command(*TRAIN, "-e", 40, "--limit", 64, "-o", run, *TRACK)
    with subprocess.Popen(
        [*VAECLI, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=place.folder,
        text=True,
    ) as training:
        assert training.stderr is not None
        for line in training.stderr:
            if line.startswith("epoch  3/40"):
                break
        time.sleep(random.random() * 0.7)
        training.send_signal(signal.SIGKILL)
        training.stderr.read()
    done = process(*place.command("train", "--resume", run, *TRACK), cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    assert len(rows(run)) == 40
    for read in read_all(place, run).values():
        # an epoch that was trained twice took another time
        assert_one_curve(read, run, without=TIMING)
        assert read.pictures


def powerless() -> None:
    """Give up root's right to write where the mode forbids it."""
    for capability in (1, 2, 3):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@needs_trackers
@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities by a call of Linux")
def test_a_folder_that_is_read_only_is_one_warning(place: Place, tmp_path: Path) -> None:
    run, closed = tmp_path / "run", tmp_path / "closed"
    closed.mkdir(mode=0o555)
    made = process(*place.command(*TRAIN, "-e", 1, "-o", run, "-q"))
    assert made.returncode == 0, made.stderr
    (run / "tensorboard").mkdir(mode=0o555)
    with subprocess.Popen(
        [*VAECLI, *place.command("train", "--resume", run, *TRACK)],
        cwd=closed,
        env={**os.environ, "WANDB_DIR": str(closed), "TRACKIO_DIR": str(closed / "trackio")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=powerless,
    ) as training:
        _, said = training.communicate()
    assert training.returncode == 0, said
    lines = said.splitlines()[1:]
    assert len(lines) == 4, said
    for name, line in zip(names.CLASSES, lines, strict=True):
        assert line.startswith(f"vaecli: warning: --track {name} failed")
        assert "ermission denied" in line


@dataclass
class Double:
    """A tracker that notes what it is told, and fails where it is asked to."""

    told: list[tuple[str, object]]
    last_epoch: int = 0
    fails_at: str = ""

    def _note(self, what: str, value: object) -> None:
        if what == self.fails_at:
            raise RuntimeError(f"broken\nat {what}")
        self.told.append((what, value))

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._note("log", epoch)

    def finish(self, epoch: int, pictures: Sequence[Path], digest: str) -> None:
        self._note("finish", [path.name for path in pictures])

    def close(self, *, finished: bool) -> None:
        self._note("close", finished)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> dict[str, Double]:
    """The trackers that are started, by their names."""
    found = {"good": Double([]), "bad": Double([])}

    def start(name: str, run: TrackedRun) -> Double:
        assert run.settings["training.epochs"] == 3
        found[name]._note("start", run.id)
        return found[name]

    monkeypatch.setattr(trackers, "start", start)
    return found


PICTURES = ["reconstructions.png", "samples.png", "curves.png", "latents.png"]


@pytest.mark.parametrize("where", ["start", "log", "finish", "close"])
def test_a_tracker_that_fails_ends_no_training_and_no_other(
    doubles: dict[str, Double], tmp_path: Path, where: str
) -> None:
    doubles["bad"] = replace(doubles["bad"], fails_at=where)
    run = make_run(tmp_path / "run", epochs=3)
    events = list(follow(loop.train(run, DATASET), run, ("bad", "good")))
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert texts == [f"--track bad failed, and is told nothing more: broken at {where}"]
    assert any(isinstance(event, Drawn) for event in events)
    assert doubles["good"].told == [
        ("start", run.tracking_id()),
        *[("log", epoch) for epoch in (1, 2, 3)],
        ("finish", PICTURES),
        ("close", True),
    ]
    assert ("log", 2) not in doubles["bad"].told or where in ("finish", "close")


def test_what_a_tracker_lacks_is_logged_when_the_run_goes_on(
    doubles: dict[str, Double], tmp_path: Path
) -> None:
    """It may be behind the run, where it buffers, and ahead of it, whose commits are rarer."""
    run = make_run(tmp_path / "run", epochs=3)
    asked = 0

    def stop_in_the_third_epoch() -> bool:
        nonlocal asked
        asked += 1
        return asked == 14

    first: list[Event] = list(
        follow(loop.train(run, DATASET, should_stop=stop_in_the_third_epoch), run, ("good",))
    )
    known = run.tracking_id()
    assert doubles["good"].told == [("start", known), ("log", 1), ("log", 2), ("close", False)]
    assert first
    for last_epoch, logged in ((0, [1, 2, 3]), (1, [2, 3]), (3, [])):
        doubles["good"] = Double([], last_epoch)
        if last_epoch == 0:
            list(follow(loop.train(run, DATASET), run, ("good",)))
        else:  # finished in the meantime
            assert record(run, ("good",), pytest.fail) == ["good"]
        told = doubles["good"].told
        assert told[0] == ("start", known)
        assert [value for what, value in told if what == "log"] == logged
        assert told[-1] == ("close", True)


def test_a_missing_tracker_is_exit_5_with_the_line_that_installs_it(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names.CLASSES:
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None)
            outcome = vaecli("train", "--track", name, "-o", "run")
        assert outcome.code == ExitCode.ENVIRONMENT
        assert f'pip install "vaecli[{name}]"' in outcome.err
    assert not Path("run").exists()


def test_a_tracker_that_does_not_exist(vaecli: Vaecli) -> None:
    outcome = vaecli("train", "--track", "tensorbord", "-o", "run")
    assert outcome.code == ExitCode.USAGE
    assert "tensorboard, mlflow, wandb, trackio" in outcome.err
    assert not Path("run").exists()


def test_a_configuration_file_names_one_tracker_or_several(vaecli: Vaecli) -> None:
    for text, wrong in (
        ('"nobody"', "nobody"),
        ('["none", "of-these"]', "none"),
        ("[[1]]", "track"),
    ):
        Path("vaecli.toml").write_text(f"[train]\ntrack = {text}\n")
        outcome = vaecli("train", "-o", "run")
        assert outcome.code == ExitCode.USAGE
        assert wrong in outcome.err


def test_another_run_in_the_same_folder_is_another_to_trackers(
    vaecli: Vaecli, data_dir: Path
) -> None:
    command = [*TRAIN, "-e", "1", "--limit", "64", "--data-dir", data_dir, "-o", "run", "-q"]
    assert vaecli(*command).code == 0
    first = open_run(Path("run")).tracking_id()
    assert open_run(Path("run")).tracking_id() == first
    assert vaecli(*command, "--seed", "1", "--force").code == 0
    assert open_run(Path("run")).tracking_id() != first


def test_the_command_that_continues_names_the_trackers(
    vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch, doubles: dict[str, Double]
) -> None:
    monkeypatch.setattr(names, "CLASSES", {"good": "Double"})
    monkeypatch.setitem(extras.EXTRAS, "good", ())
    doubles["good"] = replace(doubles["good"])
    monkeypatch.setattr(loop, "_epochs", lambda *_: (_ for _ in ()).throw(loop._StopRequested))
    command = [*TRAIN, "-e", "3", "--data-dir", data_dir, "-o", "run", "--track", "good"]
    outcome = vaecli(*command)
    assert "vaecli train --resume run --track good --data-dir" in outcome.err
    assert doubles["good"].told[-1] == ("close", False)
