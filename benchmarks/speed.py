"""Training speed of vaecli beside what people would otherwise run, alternating in one run.

    python benchmarks/speed.py --data-dir DIR [--rounds 5] [--threads 2] [NAME ...]

Each contender lives in its own process; in every round each runs one epoch, one after the other,
so that a slow minute of the machine falls on all of them.  The first epoch of each is warm-up.
Writes `speed.json` (raw rounds, versions, cores) and `speed.md` (table) into --output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
NAMES = ("vaecli", "textbook", "pythae", "jax", "products")
LABELS = {
    "vaecli": "vaecli",
    "vaecli-bf16": "vaecli --precision bf16",
    "textbook": "the PyTorch example",
    "pythae": "Pythae",
    "jax": "JAX + optax, jitted",
    "products": "the matrix products alone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    rounds = measure(options.names, options.data_dir, options.rounds, options.threads)
    result = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "versions": versions(),
        "rounds": rounds,
    }
    check_losses(rounds)
    options.output.mkdir(exist_ok=True)
    (options.output / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "speed.md").write_text(table(rounds))
    print(table(rounds))


def measure(
    names: list[str], folder: Path, rounds: int, threads: int
) -> dict[str, list[dict[str, float]]]:
    """One process per contender; the rounds of each without the warm-up."""
    # a pool that waits actively would slow down the contender that is measured
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, str(HERE / "contenders.py"), name, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in names
    }
    result: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for index in range(rounds + 1):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("epoch\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            print(f"round {index}: {name}: {answer['seconds']:.2f} s", file=sys.stderr)
            if index:
                result[name].append(answer)
    for process in processes.values():
        process.kill()
    return result


def check_losses(rounds: dict[str, list[dict[str, float]]]) -> None:
    """All of them train the same model: equal epochs must end at about equal losses."""
    last = {name: epochs[-1]["test_loss"] for name, epochs in rounds.items() if name != "products"}
    spread = max(last.values()) - min(last.values())
    assert spread < 2.5, f"the losses differ by {spread:.2f} nats per image: {last}"


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    """Medians, and ratios round by round."""
    lines = ["| | seconds per epoch | vaecli is faster by | test loss | peak memory |"]
    lines.append("| --- | --- | --- | --- | --- |")
    own = rounds.get("vaecli", next(iter(rounds.values())))
    for name, epochs in rounds.items():
        pairs = zip(epochs, own, strict=True)
        ratio = median(other["seconds"] / mine["seconds"] for other, mine in pairs)
        seconds = median(epoch["seconds"] for epoch in epochs)
        loss, memory = epochs[-1]["test_loss"], epochs[-1]["peak_memory"] / 1e6
        lines.append(
            f"| {LABELS[name]} | {seconds:.2f} | {ratio:.2f} |"
            f" {'' if loss is None else f'{loss:.2f}'} | {memory:,.0f} MB |"
        )
    return "\n".join(lines) + "\n"


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
