"""What the training panel costs: `python benchmarks/preview_cost.py --data-dir DATA`.

Trains the default model at a pseudo-terminal of 80 columns and 24 rows, and adds up the processor
time spent in the panel (lines, pictures and decoding them) as a share of the whole training loop.
Processor time, because a machine that does other things makes wall time useless.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def child(report: str, arguments: list[str]) -> None:
    """Train with every door to the panel timed."""
    import time

    from vaecli.cli import app
    from vaecli.terminal import preview
    from vaecli.terminal.progress import LiveTrainingView

    spent = {"panel": 0.0, "training": 0.0}

    def timed(owner: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*values: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return inner(*values, **named)
            finally:
                spent["panel"] += time.process_time() - began

        setattr(owner, name, outer)

    for name in ("start", "step", "picture", "epoch"):
        timed(LiveTrainingView, name)
    timed(preview.TrainingPreview, "picture")
    began = time.process_time()
    start = LiveTrainingView.start

    def started(*values: Any) -> None:
        nonlocal began
        began = time.process_time()
        start(*values)

    LiveTrainingView.start = started  # type: ignore[method-assign]
    last = LiveTrainingView.epoch

    def epoch(*values: Any) -> None:
        last(*values)
        spent["training"] = time.process_time() - began

    LiveTrainingView.epoch = epoch  # type: ignore[method-assign]
    app.run(arguments)
    Path(report).write_text(json.dumps(spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--epochs", default="3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", "--data", "mnist", "--data-dir", options.data_dir]
        arguments += ["--epochs", options.epochs, "-o", f"{folder}/run"]
        ours, theirs = pty.openpty()
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        command = [sys.executable, __file__, "--child", f"{folder}/report", *arguments]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)

        def drain() -> None:
            try:
                while os.read(ours, 1 << 16):
                    pass
            except OSError:
                return

        threading.Thread(target=drain, daemon=True).start()
        process.wait()
        spent = json.loads(Path(f"{folder}/report").read_text())
    share = 100 * spent["panel"] / spent["training"]
    print(
        f"panel {spent['panel']:.3f} s of {spent['training']:.1f} s processor time: {share:.2f} %"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    else:
        main()
