"""Make the model that comes with vaecli, `-m digits`, and record what it is.

    python benchmarks/bundled_model.py

Trains on the built-in digits with the defaults, writes the weights as fp16 into the package, and
their digest and test loss into results/bundled.json, which a test compares with the package.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from vaecli.runs import weights
from vaecli.runs.load import BUNDLED, BUNDLED_FILE

RESULT = Path(__file__).parent / "results/bundled.json"
TRAIN = ["train", "--data", BUNDLED]
EXPORT = ["export", "--format", "safetensors", "--half", "--force", "-o", str(BUNDLED_FILE)]


def vaecli(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "vaecli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Train, export, evaluate."""
    if len(sys.argv) > 1:
        run = sys.argv[1]  # trained before, by the same command
    else:
        run = vaecli(*TRAIN, "-o", str(Path(tempfile.mkdtemp()) / BUNDLED)).strip()
    vaecli(*EXPORT, "-m", run)
    judged = json.loads(vaecli("eval", "-m", BUNDLED, "--json"))
    about = {
        "command": " ".join(["vaecli", *TRAIN]),
        "environment": json.loads(Path(run, "config.json").read_text())["environment"],
        "sha256": weights.digest(weights.read_model(BUNDLED_FILE).tensors),
        "n_images": judged["n_images"],
        "loss": round(judged["loss"], 3),
    }
    RESULT.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
