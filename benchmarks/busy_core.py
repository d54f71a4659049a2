"""What a busy core costs the default training, by how long waiting threads keep their core.

    python benchmarks/busy_core.py [--rounds 3] [--epochs 5] [--busy 1]

Each round trains the default model on 6,000 of the digits that come with vaecli once for each
setting, alone and beside processes that compute without end.  The first epoch is not counted.
Writes `busy-core.json`: seconds of an epoch, and their medians.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS: dict[str, dict[str, str]] = {
    "as vaecli sets it": {},
    "GOMP_SPINCOUNT=300000, its own": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "GOMP_SPINCOUNT=5000": {"GOMP_SPINCOUNT": "5000"},
    "GOMP_SPINCOUNT=20000": {"GOMP_SPINCOUNT": "20000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "--threads 1": {"VAECLI_THREADS": "1"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--busy", type=int, default=1, help="processes beside it")
    options = parser.parse_args()
    seconds: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in ("quiet", "busy")
    }
    for _ in range(options.rounds):
        for situation, rows in seconds.items():
            with busy(options.busy if situation == "busy" else 0):
                for name, variables in SETTINGS.items():
                    rows[name].append(epoch_seconds(variables, options.epochs))
                    print(f"{situation:6} {name:32} {rows[name][-1]:7.2f} s", flush=True)
    medians = {
        situation: {name: statistics.median(values) for name, values in rows.items()}
        for situation, rows in seconds.items()
    }
    result = {"cores": os.cpu_count(), "busy": options.busy, "medians": medians, "rounds": seconds}
    (RESULTS / "busy-core.json").write_text(json.dumps(result, indent=1) + "\n")


def epoch_seconds(variables: dict[str, str], epochs: int) -> float:
    """The median of all epochs but the first."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "VAECLI_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vaecli", "train", "--data", "digits", "--limit", "6000"]
        subprocess.run(
            [*command, "-q", "--epochs", str(epochs), "-o", f"{folder}/run"],
            env={**kept, **variables},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        with Path(folder, "run", "metrics.csv").open() as file:
            times = [float(row["seconds"]) for row in csv.DictReader(file)]
    return statistics.median(times[1:])


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Within this, processes compute without end."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
