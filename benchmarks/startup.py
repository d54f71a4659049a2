"""What commands cost in time and memory, beside `python -c "import torch"`, alternating.

    python benchmarks/startup.py --data-dir DIR [--rounds 7]

Each round runs every command once, as a process of its own.  Processor time and peak memory are the
process's own (wait4); `train` is the default recipe for one epoch of MNIST.  Writes `startup.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

RESULTS = Path(__file__).resolve().parent / "results"
PYTHON = [sys.executable]
VAECLI = [sys.executable, "-m", "vaecli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(commands(options.data_dir, Path(folder)), options.rounds)
    result = {"cores": os.cpu_count(), "python": platform.python_version(), "rounds": rounds}
    options.output.mkdir(exist_ok=True)
    (options.output / "startup.json").write_text(json.dumps(result, indent=1) + "\n")


def commands(data: Path, folder: Path) -> dict[str, list[str]]:
    """Every command that is measured; trains the model that some of them need."""
    train = [*VAECLI, "train", "--data", "mnist", "--data-dir", str(data), "--epochs", "1", "-q"]
    run = folder / "run"
    subprocess.run([*train, "-o", str(run)], check=True, stdout=subprocess.DEVNULL)
    grid, model = folder / "digit.png", ["-m", str(run), "-q", "-f"]
    subprocess.run(
        [*VAECLI, "sample", *model, "-n", "1", "-o", str(grid)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    out, page = ["-o", str(folder / "out.png")], ["-o", str(folder / "page.html")]
    conv = {side: untrained(folder, (1 if side == 28 else 3, side, side)) for side in (28, 64)}
    thousand = copies(grid, folder / "thousand", 1000)
    return {
        "import torch": [*PYTHON, "-c", "import torch"],
        "import typer": [*PYTHON, "-c", "import typer"],
        "vaecli --version": [*VAECLI, "--version"],
        "vaecli --help": [*VAECLI, "--help"],
        "vaecli train --help": [*VAECLI, "train", "--help"],
        "vaecli reconstruct one.png": [*VAECLI, "reconstruct", str(grid), *model, *out],
        "vaecli sample": [*VAECLI, "sample", *model, *out],
        "the same, conv, 1x28x28": [*VAECLI, "sample", *conv[28], *out],
        "the same, conv, 3x64x64": [*VAECLI, "sample", *conv[64], *out],
        "vaecli reconstruct FOLDER, 1,000 PNGs": [
            *(*VAECLI, "reconstruct", str(thousand), *model, "-o", str(folder / "out"))
        ],
        "vaecli eval": [*VAECLI, "eval", *model, "--data-dir", str(data), "--limit", "1"],
        "vaecli export --format html": [*VAECLI, "export", *model, "--format", "html", *page],
        "vaecli train --epochs 1": [*train, "-f", "-o", str(folder / "again")],
    }


UNTRAINED = """
import sys
from pathlib import Path
from vaecli.config import ModelConfig
from vaecli.model.vae import build
from vaecli.runs import weights
path, *shape = sys.argv[1:]
config = ModelConfig(image_shape=tuple(map(int, shape)), arch="conv", likelihood="logistic")
Path(path).write_bytes(weights.encode_model(config, build(config, seed=0).weights()))
"""
"""In a process of its own: a child's peak memory begins with that of its parent."""


def untrained(folder: Path, shape: tuple[int, int, int]) -> list[str]:
    """Options that name a conv of this image shape; its weights cost what trained ones do."""
    path = folder / f"conv-{shape[1]}.safetensors"
    subprocess.run([*PYTHON, "-c", UNTRAINED, str(path), *map(str, shape)], check=True)
    return ["-m", str(path), "-q", "-f"]


def copies(picture: Path, folder: Path, count: int) -> Path:
    """A folder with copies of a picture, at the size of a digit."""
    folder.mkdir()
    digit = Image.open(picture).crop((2, 2, 58, 58)).resize((28, 28))
    for number in range(count):
        digit.save(folder / f"{number:04d}.png")
    return folder


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """What each command took, round by round, after one to warm up."""
    result: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for index in range(rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            assert status == 0, f"{name} failed"
            if index:
                processor = usage.ru_utime + usage.ru_stime
                memory = usage.ru_maxrss * 1024
                result[name].append(
                    {"seconds": seconds, "processor": processor, "peak_memory": memory}
                )
    return result


if __name__ == "__main__":
    main()
