"""Stopped anywhere and continued: the same bytes as without the stop; and what may not be."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TRAIN, Vaecli, write_mnist
from test_crash import assert_whole, result
from test_training import DATASET, finish, images, make_run, rows, untimed
from vaecli.config import TrainConfig
from vaecli.data.dataset import Dataset
from vaecli.errors import ExitCode, ModelError
from vaecli.evaluation.evaluate import evaluate
from vaecli.runs import directory, weights
from vaecli.runs.directory import METRICS, WEIGHTS, Run
from vaecli.runs.load import load_model
from vaecli.system import files
from vaecli.training import loop
from vaecli.training.events import EpochEnd, Event, Finished, Notice, Saved, Stopped

FORTY_STEPS = Dataset("blobs", images(150), images(21))


@pytest.fixture
def in_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_NO_DOWNLOAD", "1")


def stop_at(run: Run, step: int, dataset: Dataset) -> list[Event]:
    """Train until `should_stop` was asked for the `step`-th time, counted over all passes."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == step

    return list(loop.train(run, dataset, should_stop=should_stop))


def state(run: Run) -> weights.Arrays:
    """The tensors of the newest generation: weights, optimizer state, sums, best weights."""
    newest = max((run.path / "state").glob("generation-*"))
    with newest.open("rb") as file:
        header = weights.read_header(file)
        return weights.read_tensors(file, header, header.shapes)


def same(found: weights.Arrays, expected: weights.Arrays) -> bool:
    """Names, types, shapes and every value."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name])
        for name in expected
    )


@pytest.mark.parametrize("settings", [{}, {"patience": 9}])
def test_resume_after_every_step_of_forty(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Also within every test pass: weights, optimizer state and metrics are bit-equal."""
    batch_size = 15 if settings.get("patience") is None else 14
    settings = {"epochs": 4, "batch_size": batch_size, **settings}
    straight = make_run(tmp_path / "straight", FORTY_STEPS, **settings)
    finish(straight, FORTY_STEPS)
    expected = state(straight)
    assert any("exp_avg_sq" in name for name in expected)
    stops = 0
    for step in range(1, 100):
        broken = make_run(tmp_path / str(step), FORTY_STEPS, **settings)
        events = stop_at(broken, step, FORTY_STEPS)
        if not isinstance(events[-1], Stopped):
            break
        stops += 1
        finish(broken, FORTY_STEPS)
        found = state(broken)
        assert same(found, expected), step
        assert (broken.path / WEIGHTS).read_bytes() == (straight.path / WEIGHTS).read_bytes()
        assert [untimed(row) for row in rows(broken)] == [untimed(row) for row in rows(straight)]
    passes = 2 if settings.get("patience") else 1
    assert stops == 40 + 4 * passes


def test_patience_keeps_the_best_on_held_out_training_images(tmp_path: Path) -> None:
    """Selected on the held-out loss at beta = 1, never on the test set."""
    settings: dict[str, Any] = {"epochs": 60, "patience": 3, "lr": 0.05, "schedule": "constant"}
    one = make_run(tmp_path / "one", **settings)
    events = finish(one)
    metrics = [event.metrics for event in events if isinstance(event, EpochEnd)]
    losses = [row.held_out_loss for row in metrics]
    assert None not in losses
    best = losses.index(min(losses, key=float)) + 1  # type: ignore[arg-type]
    assert len(losses) == best + 3 < 60
    done = next(event for event in events if isinstance(event, Finished))
    assert done.epoch == best
    assert list(rows(one)[0])[-1] == "held_out_loss"

    model = load_model(str(one.path)).model
    held_out = DATASET.train.split(TrainConfig(patience=3).fitted(70))[1]
    assert len(held_out) == 7
    assert evaluate(model, held_out, seed=0).loss == losses[best - 1]
    assert f"After {best} epochs" in (one.path / "README.md").read_text()

    # stopped in an epoch after the best one: the best weights come back with the state
    asked_per_epoch = 4 + 1 + 1  # steps, test batches, held-out batches
    broken = make_run(tmp_path / "broken", **settings)
    events = stop_at(broken, (best + 1) * asked_per_epoch + 2, DATASET)
    assert events[-1] == Stopped(epoch=best + 1, images=32)
    finish(broken)
    assert result(broken.path) == result(one.path)

    # other test images choose the same epoch, and the same bytes
    other = Dataset("blobs", DATASET.train, images(5))
    two = make_run(tmp_path / "two", other, **settings)
    finish(two, other)
    assert (one.path / WEIGHTS).read_bytes() == (two.path / WEIGHTS).read_bytes()


def test_each_epoch_draws_its_own_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One visiting order and weights that do not move: only the noise can differ."""
    order = "vaecli.training.epoch.permutation"
    monkeypatch.setattr(order, lambda count, **key: torch.arange(count))
    one = make_run(tmp_path / "one", lr=1e-30, schedule="constant", epochs=2)
    finish(one)
    first, second = rows(one)
    assert first["train_rate"] == second["train_rate"]
    assert first["train_distortion"] != second["train_distortion"]


def test_held_out_images_are_not_trained_on() -> None:
    numbered = images(50)
    numbered.pixels[:][:, 0, 0, 0] = torch.arange(50, dtype=torch.uint8)
    fitted, held_out = numbered.split(45)
    marks = [part.pixels[:][:, 0, 0, 0].tolist() for part in (fitted, held_out)]
    assert sorted(marks[0] + marks[1]) == list(range(50))
    assert (len(marks[0]), len(marks[1])) == (45, 5)
    assert marks[1] != list(range(45, 50))  # sets sorted by class would lose one


def test_a_fallback_keeps_the_intact_generation(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", FORTY_STEPS, epochs=4)
    for _ in range(3):
        stop_at(one, 2, FORTY_STEPS)
    newest = max((one.path / "state").glob("generation-*"))
    newest.write_bytes(newest.read_bytes()[:100])
    events = stop_at(one, 2, FORTY_STEPS)
    notice = next(event for event in events if isinstance(event, Notice))
    assert "falling back to the generation before it" in notice.text
    newest = max((one.path / "state").glob("generation-*"))
    newest.write_bytes(b"")  # the next one too: the first intact one must still be there
    finish(one, FORTY_STEPS)
    straight = make_run(tmp_path / "straight", FORTY_STEPS, epochs=4)
    finish(straight, FORTY_STEPS)
    assert result(one.path) == result(straight.path)


def test_only_train_falls_back(vaecli: Vaecli, in_cache: None) -> None:
    command = [*TRAIN, "--epochs", "2", "-o", "out"]
    assert vaecli(*command).code == 0
    path = Path("out") / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    refused = vaecli("eval", "-m", "out")
    assert refused.code == ExitCode.MODEL
    assert refused.err.count("vaecli: error: ") == 1
    generation = max(Path("out/state").glob("generation-*"))
    generation.write_bytes(generation.read_bytes()[:-9])
    fallen = vaecli(*command)  # the weights are derived from the state, and made again
    assert fallen.code == 0
    assert "falling back to the generation before it" in fallen.err
    assert path.read_bytes() == whole
    for generation in Path("out/state").glob("generation-*"):
        generation.write_bytes(b"")
    path.unlink()
    lost = vaecli(*command)
    assert lost.code == ExitCode.MODEL
    assert "no state to resume from" in lost.err


def test_epochs_may_grow_with_a_constant_schedule(vaecli: Vaecli, in_cache: None) -> None:
    constant = [*TRAIN, "--schedule", "constant", "-q"]
    assert vaecli(*constant, "-e", "3", "-o", "straight").code == 0
    assert vaecli(*constant, "-e", "1", "-o", "out").code == 0
    assert vaecli(*constant, "-e", "2", "-o", "out").code == 0
    assert json.loads(Path("out/config.json").read_text())["training"]["epochs"] == 2
    assert vaecli("train", "--resume", "out", "--epochs", "3").code == 0
    assert result(Path("out")) == result(Path("straight"))
    assert (Path("out/README.md").read_text()) == Path("straight/README.md").read_text()
    assert_whole(Path("out"))
    fewer = vaecli("train", "--resume", "out", "--epochs", "2")
    assert fewer.code == ExitCode.USAGE
    assert "nothing to do" in vaecli(*constant[:-1], "-e", "3", "-o", "out").err


def test_epochs_may_not_grow_with_a_schedule_that_decays(vaecli: Vaecli, in_cache: None) -> None:
    assert vaecli(*TRAIN, "-e", "1", "-o", "out", "-q").code == 0
    before = result(Path("out"))
    for command in (["train", "--resume", "out"], [*TRAIN, "-o", "out"]):
        refused = vaecli(*command, "-e", "2")
        assert refused.code == ExitCode.USAGE
        assert "--init-from out" in refused.err
        assert refused.err.count("\n") == 1
    assert result(Path("out")) == before


def test_init_from(vaecli: Vaecli, in_cache: None, trained: Path) -> None:
    """Weights only; the run then needs nothing but itself, and tells no path."""
    shutil.copy(trained / WEIGHTS, "loose.safetensors")
    quick = ["--lr", "1e-30", "--schedule", "constant", "-e", "1", "-q", "--data", "mnist"]
    for name, source in (("from-run", trained), ("from-file", "loose.safetensors")):
        assert vaecli("train", *quick, "--init-from", source, "-o", name).code == 0
    assert (Path("from-run") / WEIGHTS).read_bytes() == (Path("from-file") / WEIGHTS).read_bytes()
    start, end = load_model(str(trained)).model, load_model("from-run").model
    for before, after in zip(start.parameters(), end.parameters(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-20)
    config = json.loads(Path("from-run/config.json").read_text())
    assert config["training"]["init_from"] == weights.digest(start.weights())
    assert config["model"]["latent_dim"] == 8  # taken from the weights
    assert str(trained) not in Path("from-run/config.json").read_text()
    again = vaecli("train", *quick[:-3], "--data", "mnist", "-o", "from-run")
    assert again.code == ExitCode.USAGE
    assert "init_from" in again.err


def test_init_from_resumes_without_its_source(tmp_path: Path) -> None:
    source = make_run(tmp_path / "source")
    finish(source)
    initial = load_model(str(source.path)).model
    digest = weights.digest(initial.weights())
    straight, broken, never = (
        make_run(tmp_path / name, init_from=digest) for name in ("straight", "broken", "never")
    )
    list(loop.train(straight, DATASET, initial=initial))
    for event in loop.train(broken, DATASET, initial=initial):
        if isinstance(event, Saved):
            break
    finish(broken)
    assert result(broken.path) == result(straight.path)
    with pytest.raises(ModelError, match="were not saved yet"):
        finish(never)


def test_init_from_another_architecture_is_exit_4(
    vaecli: Vaecli, in_cache: None, trained: Path
) -> None:
    refused = vaecli(
        "train", "-d", "mnist", "--init-from", trained, "--latent-dim", "3", "--hidden", "9,9"
    )
    assert refused.code == ExitCode.MODEL
    assert "latent_dim: the weights have 8, not 3" in refused.err
    assert "hidden: the weights have 64, not 9,9" in refused.err
    assert not Path("runs").exists()
    assert vaecli("train", "--init-from", "nowhere").code == ExitCode.MODEL
    both = vaecli("train", "--init-from", trained, "--output-bias", "zero")
    assert both.code == ExitCode.USAGE


def test_changed_data_is_exit_4(vaecli: Vaecli, tmp_path: Path) -> None:
    write_mnist(tmp_path / "data", 60, 20)
    command = [*TRAIN, "-e", "1", "-o", "out", "--data-dir", "data", "--no-download", "-q"]
    assert vaecli(*command).code == 0
    before = result(Path("out"))
    for count, seed, words in ((60, 1, "with other content"), (70, 1, "60 training and 20 test")):
        shutil.rmtree("data")
        write_mnist(tmp_path / "data", count, 20, seed)
        for attempt in (command, ["train", "--resume", "out", *command[-4:]]):
            refused = vaecli(*attempt)
            assert refused.code == ExitCode.MODEL
            assert words in refused.err
            assert refused.err.count("\n") == 1
    assert result(Path("out")) == before


def test_other_conditions_are_a_warning(vaecli: Vaecli, in_cache: None) -> None:
    assert vaecli(*TRAIN, "-e", "1", "-o", "out", "--threads", "1", "-q").code == 0
    path = Path("out/config.json")
    config = json.loads(path.read_text())
    assert config["environment"]["threads"] == 1
    Path("out", METRICS).unlink()  # so that there is something to do
    torch.set_num_threads(2)  # the recorded count is restored, so nothing differs
    try:
        assert "conditions" not in vaecli("train", "--resume", "out").err
    finally:
        torch.set_num_threads(1)
    config["environment"] |= {"threads": 7, "torch": "1.0"}
    path.write_text(json.dumps(config))
    Path("out", METRICS).unlink()
    outcome = vaecli("train", "--resume", "out", "--threads", "1")
    assert outcome.code == 0
    assert f"torch 1.0 then, {torch.__version__} now; threads 7 then, 1 now" in outcome.err


@pytest.mark.parametrize("name", [*directory.OWN_FILES[1:]])
def test_whatever_is_missing_of_a_finished_run_is_made_again(
    vaecli: Vaecli, in_cache: None, real_figures: None, name: str, trained: Path
) -> None:
    shutil.copytree(trained, "out")
    digests = set[str]()
    if name not in (directory.CURVES, directory.LATENTS):  # `trained` was not drawn
        digests.add(hashlib.sha256((trained / name).read_bytes()).hexdigest())
    for _ in range(2):
        Path("out", name).unlink()
        assert vaecli("train", "--resume", "out").code == 0
        digests.add(hashlib.sha256(Path("out", name).read_bytes()).hexdigest())
    assert len(digests) == 1
    if name.endswith(".png"):
        Image.open(Path("out", name)).verify()


def test_nothing_is_ordered_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("010-b-mlp", "009-a-mlp"):
        finish(make_run(tmp_path / name))
    assert directory.latest(tmp_path).name == "010-b-mlp"  # the older of the two
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert directory.allocate("digits", "mlp", tmp_path).name == "011-digits-mlp"


def test_no_two_processes_get_one_number(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = [f"set{index % 5}" for index in range(40)]
    with ThreadPoolExecutor(10) as pool:
        paths = list(pool.map(lambda name: directory.allocate(name, "mlp", tmp_path), names))
    numbers = [path.name.split("-")[0] for path in paths]
    assert len(set(numbers)) == len(names)
    assert all(path.is_dir() for path in paths)


def test_files_take_the_mode_of_the_umask(tmp_path: Path) -> None:
    import os

    previous = os.umask(0o027)
    try:
        files.atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
