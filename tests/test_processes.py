"""Several processes train what one trains; one that dies ends them all, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import process_worker
from conftest import TRAIN
from vaecli.system import processes
from vaecli.system import torchrun as launch
from vaecli.terminal.preview import ACROSS

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


def start(
    script: str, *arguments: object, world: int = WORLD, **of_each: list[object]
) -> list[subprocess.Popen[str]]:
    """The processes of a group, as torchrun starts them.

    Args:
        script: beside this file.
        arguments: of all.
        world: how many.
        of_each: environment variables that differ, a value for each process.
    """
    variables = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    variables |= {"MASTER_PORT": str(free_port())}
    of_each = {"RANK": list(range(world)), "LOCAL_RANK": list(range(world)), **of_each}
    return [
        subprocess.Popen(
            [sys.executable, TESTS / script, *map(str, arguments)],
            env={
                **environment(),
                **variables,
                **{name: str(values[rank]) for name, values in of_each.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


@contextmanager
def killed_at_last(started: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Within this, processes may be left behind."""
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def endings(started: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """The exit codes of processes that end by themselves, and what they wrote to stderr."""
    with killed_at_last(started):
        said = [process.communicate(timeout=100)[1] for process in started]
        return [process.returncode for process in started], "".join(said)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process trained, and what three did."""
    one, three = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("three")
    started = start("process_worker.py", three)
    process_worker.train(one, processes.ONE_PROCESS)
    codes, said = endings(started)
    assert codes == [0] * WORLD, said
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


def test_an_error_of_one_process_is_raised_in_every_one(folders: tuple[Path, Path]) -> None:
    said = [json.loads((folders[1] / f"error-{rank}.json").read_text()) for rank in range(WORLD)]
    assert said == [["there: damaged", "Repair it."]] * WORLD


def test_each_process_reads_its_share_and_one_of_a_machine_prepares(tmp_path: Path) -> None:
    """Two processes of one machine; one of another, which has its own folder of prepared sets."""
    for index in range(640):
        photo = tmp_path / f"photos/{index}.png"
        photo.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), index % 256).save(photo)
    run, epochs, batch = tmp_path / "run", 2, 50
    command = ["train", "--data", tmp_path / "photos", "--test-fraction", 0.5, "-o", run, "-q"]
    command += ["--hidden", 8, "--epochs", epochs, "--batch-size", batch]
    folders = [tmp_path / "first", tmp_path / "first", tmp_path / "second"]
    started = start(
        "command_worker.py",
        *(tmp_path, 60, *command),
        LOCAL_RANK=[0, 1, 0],
        VAECLI_TRAIN_DATA_DIR=list(folders),
        GROUP_WORLD_SIZE=[2, 2, 2],
    )
    codes, said = endings(started)
    assert codes == [0] * WORLD, said
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    assert [each["prepared"] for each in seen] == [1, 0, 1]

    data = json.loads((run / "config.json").read_text())["data"]
    train, test = data["n_train"], data["n_test"]
    assert test > 256, "each of the first two has images to judge"
    sizes = [min(batch, train - begin) for begin in range(0, train, batch)]
    judged = [min(256, test - begin) for begin in range(0, test, 256)]
    shares = []
    for rank in range(WORLD):
        alone = processes.Processes()
        alone.rank, alone.count = rank, WORLD
        shares.append(sum(len(range(size)[alone.share(size)]) for size in sizes) * epochs)
        shares[rank] += sum(judged[rank::WORLD]) * epochs
        shares[rank] += len(range(train)[alone.share(train)])  # for the mean image
        shares[rank] += ACROSS  # for the preview
    # as it was prepared, and as it was read back
    checked = 2 * (train + test)
    assert seen[1]["read"] == shares[1]
    assert seen[2]["read"] == shares[2] + checked
    assert seen[0]["read"] >= shares[0] + checked


def test_a_process_that_hangs_ends_the_others(data_dir: Path, tmp_path: Path) -> None:
    seconds, run = 12, tmp_path / "run"
    command = [*TRAIN, "--epochs", 100_000, "--data-dir", data_dir, "-o", run, "--no-progress"]
    started = start("command_worker.py", tmp_path, seconds, *command)
    with killed_at_last(started):
        wait_for(run / "state" / "manifest.json", started)
        started[1].send_signal(signal.SIGSTOP)
        before = time.monotonic()
        codes, errors = endings([started[0], started[2]])
        took = time.monotonic() - before
    assert codes == [5, 5], errors
    assert errors.count("vaecli: error:") == 1, errors
    assert "one of the 3 processes ended, or was silent for 0.2 minutes" in errors
    assert seconds - 1 < took < seconds + 10


def test_shares_cover_a_batch_once() -> None:
    for count in range(8):
        places: list[int] = []
        for rank in range(WORLD):
            alone = processes.Processes()
            alone.rank, alone.count = rank, WORLD
            places += range(count)[alone.share(count)]
        assert places == list(range(count))


def test_alone_nothing_of_torch_distributed_is_initialised(data_dir: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from vaecli.cli import app as cli
from vaecli.system import torchrun as launch
from vaecli.system import processes
assert not launch.by_torchrun()
arguments = {[*TRAIN, "--epochs", "1", "--data-dir", str(data_dir), "-o", str(tmp_path / "run")]!r}
assert cli.run(arguments) == 0
import torch
assert processes.join(torch.device("cpu")) is processes.ONE_PROCESS
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


def wait_for(path: Path, started: Sequence[subprocess.Popen[str]] = ()) -> None:
    limit = time.monotonic() + 60
    while not path.is_file():
        assert not any(process.poll() for process in started)
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
