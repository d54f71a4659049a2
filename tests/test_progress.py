from __future__ import annotations

import pytest

from vaecli.terminal import terminal
from vaecli.terminal.progress import TrainingView


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
    assert "epoch 2/4  44 %  loss 1.00 after 75 images  15:00 left" in capsys.readouterr().err
