"""Test loss against training time: the default recipe beside the script everybody copies.

    python benchmarks/quality.py --data-dir DIR [--threads 2]

The PyTorch example trains 20 epochs, `vaecli train` its default 20 and 5, in fp32 and bf16; each
in its own process, epoch by epoch in turn, so that a slow minute of the machine falls on all of
them.  Seconds are those of the epochs, test pass included; imports and reading are not counted.
Writes `quality.json` (`quality-cuda.json` on CUDA); performance.py makes a table and a picture
of.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from speed import HERE, one_epoch, start, surroundings

LENGTHS = {
    "textbook": 20,
    "recipe-20": 20,
    "recipe-5": 5,
    "recipe-20-bf16": 20,
    "recipe-5-bf16": 5,
}


def main() -> None:
    """Let all of them train, and write their curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    processes = {name: start(name, options) for name in LENGTHS}
    curves: dict[str, list[dict[str, float | None]]] = {name: [] for name in LENGTHS}
    for epoch in range(max(LENGTHS.values())):
        for name, length in LENGTHS.items():
            if epoch < length:
                curves[name].append(one_epoch(processes[name]))
                print(f"epoch {epoch + 1}: {name}: {curves[name][-1]}", file=sys.stderr)
    for process in processes.values():
        process.kill()
    result = {**surroundings(options.threads, options.device), "curves": curves}
    name = "quality.json" if options.device == "cpu" else "quality-cuda.json"
    (HERE / "results" / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
