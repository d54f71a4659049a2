"""Training speed of vaecli beside what people would otherwise run, alternating in one run.

    python benchmarks/speed.py --data-dir DIR [--rounds 5] [--threads 2] [--device cpu] [NAME ...]

Each contender lives in its own process; in every round each runs one epoch, one after the other,
so that a slow minute of the machine falls on all of them.  The first epoch of each is warm-up.
Writes `speed.json` (`speed-cuda.json` on CUDA): raw rounds, versions, cores.  performance.py makes
the table and the picture of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = (
    "vaecli",
    "vaecli-bf16",
    "textbook",
    "textbook-compiled",
    "pythae",
    "jax",
    "products",
    "products-bf16",
)
CUDA_NAMES = ("vaecli", "vaecli-bf16", "textbook", "jax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    names = options.names or (NAMES if options.device == "cpu" else CUDA_NAMES)
    rounds = measure(names, options)
    check_losses(rounds)
    result = {**surroundings(options.threads, options.device), "rounds": rounds}
    options.output.mkdir(exist_ok=True)
    name = "speed.json" if options.device == "cpu" else "speed-cuda.json"
    (options.output / name).write_text(json.dumps(result, indent=1) + "\n")


def measure(
    names: Sequence[str], options: argparse.Namespace
) -> dict[str, list[dict[str, float | None]]]:
    """One process per contender; the rounds of each without the warm-up."""
    processes = {name: start(name, options) for name in names}
    result: dict[str, list[dict[str, float | None]]] = {name: [] for name in names}
    for index in range(options.rounds + 1):
        for name, process in processes.items():
            answer = one_epoch(process)
            print(f"round {index}: {name}: {answer['seconds']:.2f} s", file=sys.stderr)
            if index:
                result[name].append(answer)
    for process in processes.values():
        process.kill()
    return result


def start(name: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """A contender, waiting for its first epoch."""
    command = [sys.executable, str(HERE / "contenders.py"), name, str(options.data_dir)]
    return subprocess.Popen(
        [*command, str(options.threads), options.device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
    )


def one_epoch(process: subprocess.Popen[str]) -> dict[str, float | None]:
    """Have a contender run one epoch; what it says of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("epoch\n")
    process.stdin.flush()
    answer: dict[str, float | None] = json.loads(process.stdout.readline())
    return answer


def check_losses(rounds: dict[str, list[dict[str, float | None]]]) -> None:
    """All of them train the same model: equal epochs must end at about equal losses."""
    losses = {name: epochs[-1]["test_loss"] for name, epochs in rounds.items()}
    last = {name: loss for name, loss in losses.items() if loss is not None}
    spread = max(last.values()) - min(last.values())
    assert spread < 2.5, f"the losses differ by {spread:.2f} nats per image: {last}"


def surroundings(threads: int, device: str) -> dict[str, Any]:
    """What a result was measured on."""
    return {
        "machine": platform.machine(),
        "gpu": gpu_name() if device == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": versions(),
    }


def gpu_name() -> str:
    """What the driver calls the first GPU."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return names.splitlines()[0]


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "pythae", "jax", "optax", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


if __name__ == "__main__":
    main()
