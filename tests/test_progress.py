from __future__ import annotations

import pytest
import torch

from conftest import Vaecli
from vaecli.config import Arch, ModelConfig
from vaecli.data.dataset import Images
from vaecli.model.vae import build
from vaecli.terminal import terminal
from vaecli.terminal.progress import TrainingView, expected
from vaecli.training import pace


def test_a_long_epoch_is_not_silent_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("vaecli.terminal.progress.time.monotonic", lambda: now)
    view = TrainingView(terminal.Terminal(), epochs=2, images=100)
    view.start(0)
    now += 59
    view.step(1, 24, 1.0, 2.0)
    assert capsys.readouterr().err == ""
    now += 2
    view.step(1, 25, 1.0, 2.0)
    view.step(1, 25, 1.0, 2.0)
    # 61 s for 25 of 200 images: 427 s for the other 175
    line = "epoch 1/2  12 %  loss 3.00 after 25 images  7:07 left\n"
    assert capsys.readouterr().err == line


def test_what_a_continued_run_did_before_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("vaecli.terminal.progress.time.monotonic", lambda: now)
    view = TrainingView(terminal.Terminal(), epochs=4, images=100)
    view.start(150)
    now += 100
    view.step(2, 75, 0.5, 0.5)
    # 100 s for 25 images: 900 s for the 225 that are left
    line = "epoch 2/4  44 %  loss 1.00 after 75 images  15:00 left\n"
    assert capsys.readouterr().err == line  # and no advice: how many epochs was decided before


def test_a_long_training_is_announced_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("vaecli.terminal.progress.time.monotonic", lambda: now)
    view = TrainingView(terminal.Terminal(), epochs=20, images=100)
    view.start(0)
    for images in (1, 4, 5):  # 3 s an image: 300 s an epoch
        now = 3.0 * images
        view.step(1, images, 1.0, 2.0)
    told = "an epoch takes about 5:00 here, 20 take 1:40:00; --epochs 2 takes 10:00\n"
    assert capsys.readouterr().err == told
    short = TrainingView(terminal.Terminal(), epochs=2, images=100)
    short.start(0)
    now += 50
    short.step(1, 25, 1.0, 2.0)
    assert capsys.readouterr().err == ""


def test_what_shortens_a_training_depends_on_how_long_it_is() -> None:
    assert expected(0.2, 300) == "an epoch takes less than a second here, 300 take 1:00"
    assert expected(3, 20) == "an epoch takes about 0:03 here, 20 take 1:00"
    assert expected(0.2, 2).endswith(", 2 take 0:01")
    assert expected(20, 1) == "an epoch takes about 0:20 here"
    assert expected(599, 2).endswith("; --epochs 1 takes 9:59")
    assert expected(700, 1).endswith("; --arch mlp takes less, and --limit trains on fewer images")


def test_a_model_too_large_for_this_machine_is_planned_but_not_made(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaecli.data.reading.memory_for_images", lambda: 10**7)
    monkeypatch.setattr("vaecli.training.pace.epoch_seconds", lambda *_: pytest.fail("made"))
    outcome = vaecli("train", "--data", "digits", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "\ntime\tnot measured: half the memory of this machine is less than that" in outcome.out


def test_timing_a_plan_leaves_out_what_comes_first_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, rounds = 0.0, list[float]()

    def work() -> None:
        nonlocal now
        now += rounds.pop(0)

    def timed(*seconds: float) -> float:
        rounds[:] = seconds
        return pace._seconds(work, torch.device("cpu"))

    monkeypatch.setattr("vaecli.training.pace.time.perf_counter", lambda: now)
    assert timed(12, 5) == pytest.approx(12)
    assert timed(3, 1.5, 0.5) == pytest.approx(1.5)
    assert timed(3, 0.25, 0.05, 0.15, 0.1, 0.2) == pytest.approx(0.1)  # 0.55 s after the first
    assert rounds == [0.2]


def test_timing_a_test_pass_counts_what_does_not_grow_with_the_images_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def evaluated(_: object, images: Images, seed: int) -> None:
        nonlocal now
        now += 0.08 + 1e-4 * len(images)

    monkeypatch.setattr("vaecli.training.pace.time.perf_counter", lambda: now)
    monkeypatch.setattr("vaecli.training.pace.evaluate", evaluated)
    model = build(ModelConfig(image_shape=(1, 2, 2)), seed=0)
    for count in (1, 3, 10_000):
        images = Images(torch.zeros(count, 1, 2, 2, dtype=torch.uint8))
        found = pace._judged(model, images, 128, torch.device("cpu"))
        assert found == pytest.approx(0.08 + 1e-4 * count)


@pytest.mark.parametrize("arch", ["mlp", "conv", "grid"])
def test_a_model_need_not_be_made_to_count_what_its_gradient_keeps(
    monkeypatch: pytest.MonkeyPatch, arch: Arch
) -> None:
    config, cpu = ModelConfig(image_shape=(1, 16, 16), arch=arch), torch.device("cpu")
    torch.manual_seed(3)
    drawn = torch.rand(())
    torch.manual_seed(3)
    counted = pace.count_activations(config, cpu)
    assert torch.rand(()) == drawn
    monkeypatch.setattr(pace, "LARGE", 0)
    unmade = pace.count_activations(config, cpu)
    # on the CPU conv joins upsampling and convolution, and keeps nothing between them
    assert counted < unmade if arch == "conv" else counted == unmade
    assert pace.count_activations(config, torch.device("cuda")) == unmade
