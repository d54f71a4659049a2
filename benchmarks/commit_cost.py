"""What commits cost: their share of the time of a training run, as the default command does it.

python benchmarks/commit_cost.py DATA_DIR [EPOCHS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import vaecli
from vaecli.training import loop as training


def main(data_dir: Path, epochs: int) -> None:
    spent = []
    commit = training._Loop.commit

    def timed(loop: training._Loop) -> training.Saved:
        began = time.perf_counter()
        saved = commit(loop)
        spent.append(time.perf_counter() - began)
        return saved

    training._Loop.commit = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        events = vaecli.train(
            "mnist", output=output, data_dir=data_dir, download=False, epochs=epochs
        )
        for event in events:
            if isinstance(event, training.Started):
                began = time.perf_counter()
            if isinstance(event, training.Finished):
                total = time.perf_counter() - began
                break
    print(
        f"{len(spent)} commits of {sum(spent) / len(spent):.3f} s in {total:.1f} s of training:"
        f" {100 * sum(spent) / total:.2f} %"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
