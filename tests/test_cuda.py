"""CUDA and Metal, on a double of them: devices, graphs, float64, TF32, memory."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY, TRAIN, Vaecli
from doubles.cuda import NoFloat64, double
from test_resume import state
from test_training import DATASET, finish, make_run
from vaecli.data import reading
from vaecli.errors import EnvironmentFailure, ExitCode, UsageError
from vaecli.model.precision import inference, tf32
from vaecli.runs.directory import METRICS
from vaecli.system import torchrun
from vaecli.system.device import resolve
from vaecli.training import cuda_graph, loop
from vaecli.training.events import Stopped

CONVOLUTION = ("--arch", "conv", "--hidden", "4")


def losses(run: str) -> list[float]:
    with Path(run, METRICS).open() as file:
        table = list(csv.DictReader(file))
    names = [name for name in table[0] if name not in ("epoch", "images_per_second", "seconds")]
    return [float(row[name]) for row in table for name in names if row[name]]


def train(vaecli: Vaecli, data_dir: Path, out: str, device: str, *options: str) -> None:
    where = ("--data-dir", data_dir, "-o", out, "--device", device)
    outcome = vaecli(*TRAIN, *where, "--epochs", 1, "-q", *options)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--importance-samples", "50"),  # its batches are computed in parts
        (*CONVOLUTION, "--likelihood", "logistic"),
        ("--prior", "mixture"),
        ("--prior", "flow", "--importance-samples", "3"),
        ("--arch", "grid", "--hidden", "8", "--latent-dim", "2"),
    ],
    ids=["default", "in parts", "convolution", "mixture", "flow", "grid"],
)
def test_a_gpu_that_is_not_the_current_one_replays_what_the_cpu_computes(
    options: tuple[str, ...], vaecli: Vaecli, data_dir: Path
) -> None:
    train(vaecli, data_dir, "cpu", "cpu", *options)
    with double(devices=2) as seen:
        train(vaecli, data_dir, "gpu", "cuda:1", *options)
    assert losses("gpu") == pytest.approx(losses("cpu"), rel=1e-6, abs=1e-4)
    assert (seen.records, seen.elsewhere) == (1, 0)
    assert seen.replays == 500 // 64 - cuda_graph.WARM_UP
    assert not seen.tf32


def test_tf32_is_for_training_alone(vaecli: Vaecli, data_dir: Path) -> None:
    with double() as seen:
        train(vaecli, data_dir, "run", "cuda", "--precision", "tf32", *CONVOLUTION)
        assert vaecli("eval", "-m", "run", "--data-dir", data_dir, "--limit", 9).code == 0
    assert set(seen.tf32) == {"a training step"}


def test_settings_of_tf32_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn

    def old() -> tuple[object, object]:
        return matmul.allow_tf32, cudnn.allow_tf32

    def new() -> tuple[object, object]:
        return matmul.fp32_precision, cudnn.conv.fp32_precision

    checks: list[tuple[Any, object, object]] = [(old, True, False)]
    if hasattr(cudnn, "conv"):  # from torch 2.9 on; before, there are the older flags alone
        checks = [(new, "tf32", "ieee"), (old, True, False)]
    for read, on, off in checks:
        if len(checks) == 2 and read is old:
            monkeypatch.delattr(type(cudnn), "conv")
        before = read()
        with tf32(True):
            assert read() == (on, on)
            with inference():
                assert read() == (off, off)
            assert read() == (on, on)
        assert read() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--binarize", "dynamic"),
        (*CONVOLUTION, "--likelihood", "gaussian", "--importance-samples", "5"),
        ("--likelihood", "logistic", "--importance-samples", "5", "--prior", "mixture"),
        ("--arch", "grid", "--hidden", "8", "--latent-dim", "2", "--patience", "1"),
        (*CONVOLUTION, "--likelihood", "continuous-bernoulli"),
    ],
    ids=["bernoulli", "gaussian", "logistic", "grid", "continuous-bernoulli"],
)
def test_metal_does_without_float64(
    options: tuple[str, ...], vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a slow machine sums would be fetched after every step, and none would wait for another
    monkeypatch.setattr(loop, "REFRESH_SECONDS", 3600)
    data = ("--data-dir", data_dir)
    train(vaecli, data_dir, "cpu", "cpu", *options)
    judged = {}
    judge = ("eval", "--json", "--importance-samples", 20, "--limit", 50, *data)
    judged["cpu"] = json.loads(vaecli(*judge, "-m", "cpu", "--device", "cpu").out)
    with double("mps"):
        train(vaecli, data_dir, "gpu", "mps", *options)
        for command in (
            ("reconstruct", "-o", "r.png"),
            ("sample", "--interpolate", 0, 1, "-o", "i.png"),
            ("sample", "--traverse", "-o", "t.png"),
            ("sample", "--manifold", "-o", "m.png"),
            ("export", "--format", "html", "-o", "page.html"),
        ):
            outcome = vaecli(*command, *data, "-m", "gpu", "--device", "mps", "--threads", 1)
            assert outcome.code == 0, outcome.err
        judged["gpu"] = json.loads(vaecli(*judge, "-m", "cpu", "--device", "mps").out)
    assert losses("gpu") == pytest.approx(losses("cpu"), rel=1e-6, abs=1e-4)
    for name in ("loss", "rate", "nll", "ess"):
        assert judged["gpu"][name] == pytest.approx(judged["cpu"][name], rel=1e-6), name


def test_the_double_refuses_what_metal_refuses() -> None:
    with double("mps"):
        tensor = torch.ones(2, device="mps")
        with pytest.raises(NoFloat64):
            tensor.double()
        with pytest.raises(NoFloat64):
            tensor.to("cpu", torch.float64)
        with pytest.raises(NoFloat64):
            torch.zeros(2, dtype=torch.float64).copy_(tensor)
        assert tensor.cpu().double().tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("at", [2, 4])  # the fifth step of an epoch is the short one
def test_stopped_on_a_gpu_and_continued(kind: str, at: int, tmp_path: Path) -> None:
    straight = make_run(tmp_path / "straight", epochs=3)
    finish(straight)
    broken = make_run(tmp_path / "broken", epochs=3)
    asked = iter(range(1, 1000))
    with double(kind) as seen:
        events = loop.train(broken, DATASET, device=kind, should_stop=lambda: next(asked) == at)
        assert isinstance(list(events)[-1], Stopped)
        list(loop.train(broken, DATASET, device=kind))
    expected = state(straight)
    for name, tensor in state(broken).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    if kind == "cuda":
        # 12 full steps, of which 3 warm up; after 4 both processes do, and the second begins with
        # a short step, which must not be what it records
        assert (cuda_graph.WARM_UP, seen.replays) == (3, {2: 10 - 3, 4: (4 - 3) + (8 - 3)}[at])


def test_mapped_images_are_moved_before_they_are_shown(
    vaecli: Vaecli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "memory_for_images", lambda: 10_000)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16), dtype=np.uint8)
    np.save("own.npy", pixels)
    Image.fromarray(pixels[0]).save("a.png")
    data = ("--data-dir", tmp_path / "cache", "--device", "cuda")
    with double():
        for command in (
            ("train", "-d", "own.npy", "-e", 1, "-o", "run", "--binarize", "static", "-q"),
            ("eval", "-m", "run"),
            ("reconstruct", "-m", "run", "-o", "r.png"),
            ("sample", "-m", "run", "--interpolate", "a.png", 1, "-o", "i.png"),
        ):
            outcome = vaecli(*command, *data)
            assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_set_moves_whole_only_where_it_leaves_room(kind: str) -> None:
    device = torch.device(kind)
    size = DATASET.train.pixels[:].nbytes
    for memory, moved in ((2 * size, True), (2 * size - 2, False)):
        with double(kind, memory=memory):
            pixels = DATASET.train.to(device).pixels
            assert isinstance(pixels, torch.Tensor) == moved
            assert not isinstance(pixels, torch.Tensor) or pixels.device.type == kind
    with double(kind, memory=0):
        mean = DATASET.train.to(device).mean_image()
    assert (mean == DATASET.train.mean_image()).all()


def test_training_on_a_set_that_stays_on_the_host(vaecli: Vaecli, data_dir: Path) -> None:
    train(vaecli, data_dir, "cpu", "cpu")
    with double(memory=1000):
        train(vaecli, data_dir, "gpu", "cuda")
    assert losses("gpu") == pytest.approx(losses("cpu"), rel=1e-6)


# ------------------------------------------------------------- which device


def break_gpu(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    ones = torch.ones

    def broken(*shape: int, device: torch.device) -> torch.Tensor:
        if device.type == "cuda":
            raise RuntimeError(f"CUDA error: {why}\nCUDA kernel errors might be ...")
        return ones(*shape, device=device)

    monkeypatch.setattr("vaecli.system.device.torch.ones", broken)


def test_a_gpu_without_code_in_this_build(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with double():
        break_gpu(monkeypatch, "no kernel image is available for execution on the device")
        refused = vaecli("sample", "-m", trained, "--device", "cuda", "-o", "s.png")
        assert refused.code == ExitCode.ENVIRONMENT
        assert "has no code for a double of CUDA (sm_35); it has code for sm_80" in refused.err
        assert "pytorch.org" in refused.err
        notes: list[str] = []
        assert resolve("auto", notes.append) == torch.device("cpu")
    assert len(notes) == 1
    assert "computing on the CPU" in notes[0]
    assert "no code for a double of CUDA" in notes[0]


def test_processes_of_a_group_do_not_choose_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them on the CPU and the others on GPUs would wait for each other for ever."""
    for name in torchrun.VARIABLES:
        monkeypatch.setenv(name, "0")
    with double():
        break_gpu(monkeypatch, "no kernel image is available for execution on the device")
        assert resolve("auto") == torch.device("cuda:0")  # and all of them check it together
    with double("mps"), pytest.raises(UsageError, match="torchrun"):
        resolve("mps")


def test_auto_says_why_a_driver_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def available() -> bool:
        import warnings

        warnings.warn("CUDA initialization: The NVIDIA driver is too old\nmore", stacklevel=2)
        return False

    monkeypatch.setattr("vaecli.system.device.torch.cuda.is_available", available)
    notes: list[str] = []
    assert resolve("auto", notes.append) == torch.device("cpu")
    assert notes == ["computing on the CPU: CUDA initialization: The NVIDIA driver is too old"]


def test_metal_is_taken_where_it_is_asked_for() -> None:
    notes: list[str] = []
    with double("mps"):
        assert resolve("mps", notes.append) == torch.device("mps")
        assert not notes
        assert resolve("auto", notes.append) == torch.device("cpu")
    assert "small models gain little" in notes[0]
    assert "--device mps" in notes[0]
    if not torch.backends.mps.is_available():
        with pytest.raises(EnvironmentFailure, match=r"without Metal|no Apple GPU"):
            resolve("mps")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_proof_for_a_real_gpu_holds_on_the_double(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks/gpu_proof.py", tmp_path],
        env={**os.environ, "PROOF_DOUBLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
