"""Several processes train what one trains; one that dies ends them all, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import process_worker
from conftest import TRAIN
from vaecli import launch, processes

WORLD = 3
TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process trained, and what three did."""
    one, three = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("three")
    variables = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1"}
    variables |= {"MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, TESTS / "process_worker.py", str(three)],
            env={**environment(), **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(WORLD)
    ]
    process_worker.train(one, processes.ALONE)
    assert [process.wait(100) for process in started] == [0] * WORLD
    return one, three


@pytest.mark.parametrize("case", process_worker.CASES)
def test_three_processes_train_what_one_trains(folders: tuple[Path, Path], case: str) -> None:
    """Batches of 16, 33 and 23 among three; last ones of 6, 4 and 1, where two hold nothing."""
    one = load_file(folders[0] / f"{case}-0.safetensors")
    first = load_file(folders[1] / f"{case}-0.safetensors")
    tolerance = 1e-4 if case == "single" else 1e-9
    for name, tensor in one.items():
        assert torch.allclose(tensor, first[name], rtol=0, atol=tolerance), name
    for rank in range(1, WORLD):
        other = load_file(folders[1] / f"{case}-{rank}.safetensors")
        assert all(torch.equal(tensor, first[name]) for name, tensor in other.items())


def test_only_the_first_process_writes(folders: tuple[Path, Path]) -> None:
    for case in process_worker.CASES:
        path = folders[1] / case
        assert (path / "model.safetensors").is_file()
        assert not list((folders[1] / f"config-{case}-1" / "state").glob("generation-*"))


def test_shares_cover_a_batch_once() -> None:
    for count in range(8):
        places: list[int] = []
        for rank in range(WORLD):
            alone = processes.Alone()
            alone.rank, alone.count = rank, WORLD
            places += range(count)[alone.share(count)]
        assert places == list(range(count))


def test_alone_nothing_of_torch_distributed_is_initialised(data_dir: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from vaecli import cli, launch, processes
assert not launch.by_torchrun()
arguments = {[*TRAIN, "--epochs", "1", "--data-dir", str(data_dir), "-o", str(tmp_path / "run")]!r}
assert cli.run(arguments) == 0
import torch
assert processes.join(torch.device("cpu")) is processes.ALONE
assert not torch.distributed.is_initialized()
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True, timeout=100)


def test_a_part_of_the_environment_is_no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert (launch.by_torchrun(), launch.rank(), launch.count()) == (False, 0, 1)


def torchrun(*arguments: str, data_dir: Path, run: Path, epochs: int) -> subprocess.Popen[str]:
    command = [*TRAIN, "--epochs", str(epochs), "--data-dir", str(data_dir), "-o", str(run)]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments, "-m", "vaecli", *command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_of(launcher: int) -> list[int]:
    text = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
    return [int(word) for word in text.split()]


def ending(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it said until it ended, which it does in any case."""
    try:
        return process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise AssertionError(process.communicate(timeout=60)) from None


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 60
    while not path.is_file():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_costs_no_bit(data_dir: Path, tmp_path: Path, victim: int) -> None:
    """Three processes, so that the order of sums in DistributedDataParallel's buckets matters."""
    ended = {}
    for name in ("whole", "killed"):
        run = tmp_path / name
        arguments = ["--nproc-per-node", "3", "--max-restarts", "1", "--master-port"]
        process = torchrun(*arguments, str(free_port()), data_dir=data_dir, run=run, epochs=200)
        if name == "killed":
            wait_for(run / "state" / "manifest.json")
            os.kill(sorted(workers_of(process.pid))[victim], signal.SIGKILL)
        out, err = ending(process)
        ended[name] = (process.returncode, out, err)
    assert [code for code, _, _ in ended.values()] == [0, 0], ended
    assert "continuing" in ended["killed"][2]
    assert ended["killed"][1] == f"{tmp_path / 'killed'}\n"
    whole, killed = (tmp_path / name / "model.safetensors" for name in ended)
    assert whole.read_bytes() == killed.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_paragraph_for_all_and_one_commit_at_a_signal(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--nproc-per-node", "2", "--master-port"]
    process = torchrun(*arguments, str(free_port()), data_dir=data_dir, run=run, epochs=2000)
    wait_for(run / "state" / "manifest.json")
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = ending(process)
    assert time.monotonic() - before < 25, "torchrun kills after 30 s"
    assert err.count("stopped; the state is saved") == 1, err
    process = torchrun(*arguments, str(free_port()), data_dir=data_dir, run=run, epochs=9)
    _, err = ending(process)
    assert process.returncode == 1
    assert err.count("vaecli: error:") == 1, err
