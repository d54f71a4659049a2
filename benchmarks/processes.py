"""What several processes give and cost: torch's DistributedDataParallel over gloo, on this machine.

    python benchmarks/processes.py [--rounds 4]
    python benchmarks/processes.py --agree --data-dir DATA

The first trains on random images of MNIST's size, in alternating rounds: alone with 1 and with 2
threads, as a group of 1 and of 2 processes, and as 2 processes that know nothing of each other.
It fits a cost model to them and writes `processes.json`.  The second trains MNIST in 1, 2 and 3
processes, in float64 and float32, and prints how far the results are apart, and how far one whose
first weights are changed by one part in 10,000,000.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT = "400", 128
CASES = (DEFAULT, ("100", 128), ("800", 128), ("1600", 128), ("400", 1024))
"""Hidden widths, and images per step over all processes; what the model is fitted to."""
WAYS = {
    "1 thread": (1, 1, False),
    "2 threads": (1, 2, False),
    "group of 1": (1, 1, True),
    "group of 2": (2, 1, True),
    "2 strangers": (2, 1, False),
}
"""Processes, threads of each, and whether they are a group; strangers take half a batch each."""
SECONDS = 0.4
"""Of steps in a case of a round."""


class Workers:
    """Processes that time steps when they are told to."""

    def __init__(self, mode: list[str], count: int, threads: int, grouped: bool) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.all = []
        for rank in range(count):
            names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count}
            names |= {"RANK": rank, "LOCAL_RANK": rank}
            group = {name: str(value) for name, value in names.items()} if grouped else {}
            self.all.append(
                subprocess.Popen(
                    [sys.executable, __file__, *mode],
                    env={**os.environ, **group, "OMP_NUM_THREADS": str(threads)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def ask(self, question: Any) -> list[Any]:
        """What each answers, all at once."""
        for worker in self.all:
            worker.stdin.write(json.dumps(question) + "\n")
            worker.stdin.flush()
        return [json.loads(worker.stdout.readline()) for worker in self.all]

    def end(self) -> None:
        """Let them go."""
        for worker in self.all:
            worker.stdin.close()
            worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--agree", action="store_true")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit", type=int, help="training images")
    parser.add_argument("--worker", choices=["steps", "agree"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "steps":
        answer_with_steps()
    elif options.worker == "agree":
        answer_with_results(options.data_dir, options.epochs, options.limit)
    elif options.agree:
        agree(options.data_dir, options.epochs, options.limit)
    else:
        measure(options.rounds, options.output)


def measure(rounds: int, output: Path) -> None:
    groups = {
        way: Workers(["--worker", "steps"], count, threads, grouped)
        for way, (count, threads, grouped) in WAYS.items()
    }
    seconds: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        for hidden, batch in CASES:
            for way, workers in groups.items():
                strangers = len(workers.all) > 1 and not WAYS[way][2]
                each = batch // len(workers.all) if strangers else batch
                answers = workers.ask([hidden, each, SECONDS])
                if number:  # the first warms up
                    of_case = seconds.setdefault(f"{hidden}, {batch}", {})
                    of_case.setdefault(way, []).append(max(answers))
    sizes = {hidden: groups["1 thread"].ask(["bytes", hidden])[0] for hidden, _ in CASES}
    for workers in groups.values():
        workers.end()
    result = {"seconds of a step": seconds, "bytes of gradients": sizes, **fitted(seconds, sizes)}
    output.mkdir(exist_ok=True)
    (output / "processes.json").write_text(json.dumps(result, indent=1) + "\n")
    for case, ways in seconds.items():
        batch = int(case.split(", ")[1])
        for way, each in ways.items():
            middle = statistics.median(each)
            print(
                f"{case:>10} {way:12} {1000 * middle:7.2f} ms {batch / middle:9,.0f} images/s"
                f"   {1000 * min(each):.2f} to {1000 * max(each):.2f}"
            )
    print(json.dumps({name: result[name] for name in ("latency", "bandwidth", "points")}, indent=1))


def fitted(seconds: dict[str, dict[str, list[float]]], sizes: dict[str, int]) -> dict[str, Any]:
    """Latency and bytes per second of a group of two: its steps less those of two strangers."""
    points = []
    for case, ways in seconds.items():
        grouped, strange = (statistics.median(ways[w]) for w in ("group of 2", "2 strangers"))
        points.append((sizes[case.split(", ")[0]], grouped - strange))
    slope, latency = statistics.linear_regression(*zip(*points, strict=True))
    return {
        "latency": latency,
        "bandwidth": 1 / slope,
        "points": [
            {"case": case, "bytes": size, "measured": extra, "fitted": latency + slope * size}
            for case, (size, extra) in zip(seconds, points, strict=True)
        ],
    }


def answer_with_steps() -> None:
    """Time optimizer steps of the cases asked for on stdin."""
    import torch

    from vaecli.system import processes

    group = processes.join(torch.device("cpu"))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    loops: dict[tuple[str, int], Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            kind, value, *seconds = json.loads(line)
            if kind == "bytes":
                loop = next(loop for (hidden, _), (loop, _) in loops.items() if hidden == value)
                answer = sum(p.numel() * p.element_size() for p in loop.model.parameters())
            else:
                if (kind, value) not in loops:
                    loops[kind, value] = endless(Path(folder), kind, value, group)
                answer = timed(loops[kind, value][1], seconds[0], group)
            print(json.dumps(answer), flush=True)
    os._exit(0)


def endless(folder: Path, hidden: str, batch: int, group: Any) -> Any:
    """A training of random images, and its steps, which do not end."""
    import torch

    from vaecli.config import DataConfig, ModelConfig, RunConfig, TrainConfig
    from vaecli.data.dataset import Dataset, Images
    from vaecli.runs.directory import Run
    from vaecli.training.loop import _Loop

    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8192, 1, 28, 28), dtype=torch.uint8, generator=drawn)
    dataset = Dataset("random", Images(pixels), Images(pixels[:1]))
    config = RunConfig(
        model=ModelConfig(image_shape=(1, 28, 28), hidden=(int(hidden),)),
        training=TrainConfig(batch_size=batch),
        data=DataConfig(name="random", fingerprint="", n_train=len(pixels), n_test=1),
        environment={},
    )
    loop = _Loop(Run(folder, config), dataset, torch.device("cpu"), None, group, torch.float32)

    def steps() -> Any:
        while True:
            yield from loop.steps()
            loop.state.step = 0

    return loop, steps()


def timed(steps: Any, seconds: float, group: Any) -> float:
    """Seconds of a step, over as many as fit; all processes make the same number."""
    for _ in range(3):
        next(steps)
    group.any_of(False)
    began, made = time.perf_counter(), 0
    while True:
        for _ in range(5):
            next(steps)
            group.any_of(False)  # as the loop asks whether to stop
        made += 5
        if group.first_says(time.perf_counter() - began >= seconds):
            return (time.perf_counter() - began) / made


def agree(data_dir: Path, epochs: int, limit: int | None) -> None:
    """Print how far the results of 1, 2 and 3 processes are apart."""
    mode = ["--worker", "agree", "--data-dir", str(data_dir), "--epochs", str(epochs)]
    mode += [] if limit is None else ["--limit", str(limit)]
    alone: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2, 3):
            workers = Workers(mode, count, 1, count > 1)
            cases = [("float64", 0.0), ("float32", 0.0)] + [("float32", 1e-7)] * (count == 1)
            for dtype, change in cases:
                path = f"{folder}/{dtype}-{count}-{change}"
                loss = workers.ask([dtype, path, change])[0]
                first, where = alone.setdefault(dtype, (loss, path))
                what = f"{dtype}, {count} processes, change {change:g}: test loss {loss:.10f}"
                print(f"{what}, {loss - first:+.2e}, weights {apart(where, path):.2e}", flush=True)
            workers.end()


def apart(one: str, other: str) -> float:
    """The largest difference between two weights."""
    from safetensors.torch import load_file

    first, second = (load_file(f"{path}.safetensors") for path in (one, other))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def answer_with_results(data_dir: Path, epochs: int, limit: int | None) -> None:
    """Train MNIST as asked for on stdin; the test loss, and the weights in a file."""
    import torch
    from safetensors.torch import save_file

    from vaecli.config import DataConfig, ModelConfig, RunConfig, TrainConfig
    from vaecli.data.catalogue import load
    from vaecli.data.reading import Reading
    from vaecli.runs.directory import Run
    from vaecli.system import processes
    from vaecli.training import loop as training

    group = processes.join(torch.device("cpu"))
    torch.set_num_threads(1)
    for line in sys.stdin:
        dtype, path, change = json.loads(line)
        whole = load("mnist", Reading(data_dir, download=False))
        dataset = replace(whole, train=whole.train.first(limit))
        config = RunConfig(
            model=ModelConfig(image_shape=(1, 28, 28)),
            training=TrainConfig(epochs=epochs),
            data=DataConfig(
                name="mnist",
                fingerprint=dataset.fingerprint(),
                n_train=len(dataset.train),
                n_test=len(dataset.test),
            ),
            environment={},
        )
        run = Run(Path(path), config)
        if group.first:
            with run.locked():
                run.write_config()
        initial = training.initial_model(config, dataset.train)
        with torch.no_grad():
            for parameter in initial.parameters():
                parameter.mul_(1 + change)
        for event in training.train(
            run, dataset, processes=group, dtype=getattr(torch, dtype), initial=initial
        ):
            if isinstance(event, training.Started):
                model = event.model
            if isinstance(event, training.EpochEnd):
                loss = event.metrics.test_loss
            if isinstance(event, training.Finished):
                break  # without pictures
        if group.first:
            save_file(model.state_dict(), f"{path}.safetensors")
        print(json.dumps(loss), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
