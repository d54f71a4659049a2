"""Long proofs from outside the process: `pytest -m slow tests/test_kills_slow.py`.

Each writes what it saw to a file under tests/logs/, which is committed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY, TRAIN, Vaecli, needs_mnist, real_mnist
from test_crash import FEWEST_POINTS, newest, result
from test_stopping import VAECLI
from vaecli.runs.directory import METRICS, WEIGHTS

LOGS = REPOSITORY / "tests/logs"
KILLS = 40
EPOCHS = 10
pytestmark = pytest.mark.slow

COMMITS_OFTEN = (
    "import sys; from vaecli.cli import app; from vaecli.training import commits;"
    " commits.COMMIT_EVERY = 0; sys.exit(app.run(sys.argv[1:]))"
)


@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_killed_at_every_system_call(tmp_path: Path, data_dir: Path, vaecli: Vaecli) -> None:
    """SIGKILL as the N-th call of each kind begins, for N until the run completes."""
    command = [*TRAIN, "--epochs", "2", "--no-download", "--data-dir", str(data_dir), "-q", "-o"]
    assert vaecli(*command, "straight").code == 0
    expected = result(tmp_path / "straight")
    lines = ["call, points, lost"]
    points = 0
    for call in ("fsync", "rename", "unlink", "mkdir"):
        when = 0
        while True:
            when += 1
            out = tmp_path / f"{call}-{when}"
            strace = ["strace", "-f", "-qq", "-o", os.devnull]
            inject = ["-e", f"inject={call}:signal=KILL:when={when}"]
            process = [*strace, *inject, sys.executable, "-c", COMMITS_OFTEN, *command, str(out)]
            code = subprocess.run(process, cwd=tmp_path, capture_output=True).returncode
            if code == 0:
                break
            assert code in (-signal.SIGKILL, 128 + signal.SIGKILL)
            assert vaecli(*command, out).code == 0, (call, when)
            assert result(out) == expected, (call, when)
            shutil.rmtree(out)
        lines.append(f"{call}, {when - 1}, 0")
        points += when - 1
    lines.append(f"all, {points}, 0")
    LOGS.mkdir(exist_ok=True)
    (LOGS / "system-call-kills.txt").write_text("\n".join(lines) + "\n")
    assert points >= FEWEST_POINTS


@pytest.mark.timeout(3600)
@needs_mnist
def test_random_kills_of_a_real_training(tmp_path: Path) -> None:
    """SIGKILL at random moments of one MNIST training, 40 times; then the same bytes."""
    data = ["--data", "mnist", "--no-download", "--data-dir", str(tmp_path / "data")]
    (tmp_path / "data").mkdir()
    mnist = real_mnist()
    assert mnist is not None
    (tmp_path / "data/MNIST").symlink_to((mnist / "MNIST").resolve())
    settings = ["--epochs", str(EPOCHS), "--threads", "1"]
    command = [*VAECLI, "train", *data, *settings, "-o"]
    subprocess.run([*command, "straight"], cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / "straight" / METRICS).open() as file:
        epoch_seconds = sum(float(row["seconds"]) for row in csv.DictReader(file)) / EPOCHS
    lines = [f"{EPOCHS} epochs of {epoch_seconds:.1f} s; killed at most two epochs after a start"]
    rng = random.Random(5)
    seen: list[int] = []
    while len(seen) < KILLS:
        process = subprocess.Popen(
            [*command, "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        if rng.random() < 0.8:  # the others may be killed before training has begun
            process.stderr.readline()
        delay = rng.uniform(0, 2 * epoch_seconds)
        try:
            process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            seen.append(newest(tmp_path / "killed"))
            lines.append(f"kill {len(seen)}: after {delay:.2f} s, generation {seen[-1]}")
            continue
        assert process.returncode == 0  # it has ended before enough kills: once more, from nothing
        lines.append(f"finished, generation {newest(tmp_path / 'killed')}; started again")
        assert result(tmp_path / "killed") == result(tmp_path / "straight")
        shutil.rmtree(tmp_path / "killed")
    # kills that hit nothing would prove nothing
    assert sum(number > 0 for number in seen) >= KILLS / 2
    assert len(set(seen)) >= EPOCHS / 2
    subprocess.run([*command, "killed"], cwd=tmp_path, check=True, capture_output=True)
    digests = {
        name: hashlib.sha256((tmp_path / name / WEIGHTS).read_bytes()).hexdigest()
        for name in ("straight", "killed")
    }
    lines += [f"{name}: {digest}" for name, digest in digests.items()]
    LOGS.mkdir(exist_ok=True)
    (LOGS / "random-kills.txt").write_text("\n".join(lines) + "\n")
    assert digests["straight"] == digests["killed"]
    assert result(tmp_path / "killed") == result(tmp_path / "straight")
    manifest = json.loads((tmp_path / "killed/state/manifest.json").read_text())
    assert manifest["finished"]
