"""Prove on one real GPU what tests/test_cuda.py shows on a double of one.

    python benchmarks/gpu_proof.py [FOLDER]

Some 50 checks: that training steps are recorded as CUDA graphs, read nothing back and compute
what unrecorded ones do, that evaluation is not in TF32, that a stopped run continues to the same
bytes, and every command.  Takes some minutes; a line per check, exit code 1 if one failed.
PROOF_DOUBLE=1 runs the same on the double, which proves this script and nothing about a GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from vaecli.cli import app
from vaecli.data import reading
from vaecli.system.signals import stop_flag
from vaecli.training import cuda_graph, flow_matching, loop
from vaecli.training import step as stepping

DOUBLE = bool(os.environ.get("PROOF_DOUBLE"))
BATCH, FULL_STEPS = (32, 5) if DOUBLE else (128, 46)
LIMIT = BATCH * FULL_STEPS + 7  # and a short last batch
VARIANTS = (
    "--likelihood continuous-bernoulli",
    "--likelihood gaussian",
    "--likelihood logistic",
    "--importance-samples 5 --warmup-epochs 1",
    "--importance-samples 100",
    "--importance-samples 5 --gradient iwae",
    "--prior mixture",
    "--prior flow",
    "--prior flow --importance-samples 5",
    "--binarize dynamic",
    "--binarize static",
    "--precision bf16",
    "--precision tf32",
    "--patience 1 --free-bits 0.1",
    "--arch conv --hidden 8",
    "--arch conv --hidden 8 --likelihood logistic --precision bf16",
    "--arch conv --hidden 8 --importance-samples 3 --binarize dynamic",
    "--arch grid --hidden 16 --likelihood logistic-mixture",
    "--arch grid --hidden 16 --binarize dynamic",
)
LABELLED = ("--condition labels",)
"""For images with classes; those of the double have none."""


class Proof:
    """Runs commands on the GPU, and keeps what was found.

    Args:
        folder: where runs and pictures are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: list[bool] = []
        self.counts = {"recorded": 0, "replayed": 0}
        self.cache = ["--data-dir", str(folder / "cache")] if DOUBLE else []
        self.data = ["-d", "digits", "--limit", str(LIMIT)]
        if DOUBLE:  # the test pass of the built-in digits would take most of the time
            self.data = ["-d", str(self._few_images()), "--limit", str(LIMIT), *self.cache]

    def _few_images(self) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (LIMIT + 60, 28, 28), dtype=np.uint8)
        path = self.folder / "images.npy"
        np.save(path, pixels // 2 + np.roll(pixels, 1, 1) // 2)
        return path

    def check(self, name: str, holds: bool, detail: object = "") -> None:
        """Note and show whether something holds."""
        self.results.append(bool(holds))
        print(f"{'ok  ' if holds else 'FAIL'} {name}  {detail}", flush=True)

    def run(self, *words: object, device: str = "cuda") -> tuple[int, str]:
        """Exit code and stdout of a command."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = app.run([*map(str, words), "--device", device, "-q"])
        return code, out.getvalue()

    def train(self, out: str, *options: object, device: str = "cuda") -> int:
        """The exit code of a training."""
        where = ("-b", BATCH, "-o", self.folder / out, "--force")
        return self.run("train", *self.data, *where, *options, device=device)[0]

    def evaluated(self, out: str, *options: object, device: str = "cuda") -> dict[str, Any]:
        """What eval says of a run."""
        data = self.data[2:] if DOUBLE else []
        _, text = self.run(
            "eval", "-m", self.folder / out, "--json", *data, *options, device=device
        )
        result: dict[str, Any] = json.loads(text)
        return result

    def gap(self, one: str, other: str) -> float:
        """The largest difference of a weight of two runs."""
        first, second = (load_file(self.folder / run / "model.safetensors") for run in (one, other))
        return max(float(abs(first[name] - second[name]).max()) for name in first)


@contextlib.contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within this, an attribute has another value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def counting(proof: Proof) -> Callable[..., Callable[[], None]]:
    """`CudaGraphs.record` that counts."""
    record = cuda_graph.CudaGraphs.record

    def counted(self: cuda_graph.CudaGraphs, step: Callable[[], None]) -> Callable[[], None]:
        replay = record(self, step)
        proof.counts["recorded"] += 1

        def replayed() -> None:
            proof.counts["replayed"] += 1
            replay()

        return replayed

    return counted


def strict() -> Callable[..., None]:
    """A training step in which reading anything back from the GPU is an error."""
    fit = stepping.Stepper._fit_batch

    def fitted(self: stepping.Stepper, *inputs: torch.Tensor) -> None:
        if not DOUBLE:
            torch.cuda.set_sync_debug_mode("error")
        try:
            fit(self, *inputs)
        finally:
            if not DOUBLE:
                torch.cuda.set_sync_debug_mode("default")

    return fitted


def prove_training(proof: Proof) -> None:
    """Recorded steps, their results, and every kind of training."""
    code = proof.train("graph", "--epochs", 2)
    proof.check("train", code == 0 and proof.counts["replayed"] > 0, proof.counts)
    with put(stepping, "recorder", lambda device: None):
        proof.train("eager", "--epochs", 2)
    gap = proof.gap("graph", "eager")
    proof.check("recorded = not recorded (to 1e-4, for cuBLAS)", gap <= 1e-4, gap)
    proof.train("cpu", "--epochs", 2, device="cpu")
    losses = proof.evaluated("graph")["loss"], proof.evaluated("cpu", device="cpu")["loss"]
    tolerance = 1e-6 * losses[1] if DOUBLE else 1.5  # a GPU draws other noise
    proof.check("loss as on the CPU", abs(losses[0] - losses[1]) <= tolerance, losses)
    for options in VARIANTS if DOUBLE else VARIANTS + LABELLED:
        proof.counts.update(recorded=0, replayed=0)
        code = proof.train("x", "--epochs", 1, *options.split())
        steps = int(FULL_STEPS * (0.85 if "--patience" in options else 1))  # a tenth is held out
        holds = code == 0 and proof.counts["replayed"] >= steps - cuda_graph.WARM_UP - 1
        proof.check(f"train {options}", holds and proof.counts["recorded"] == 1, proof.counts)


def prove_evaluation(proof: Proof) -> None:
    """The same weights judged on both devices; the rate has no noise in it."""
    # a small weight of the rate: a rate near zero would be rounding alone
    proof.train("conv", "--epochs", 2, "--arch", "conv", "--hidden", 16, "--beta", 0.1)
    devices = "cuda", "cpu"
    rates = [proof.evaluated("conv", "--limit", 500, device=name)["rate"] for name in devices]
    holds = rates[1] > (0 if DOUBLE else 1) and abs(rates[0] - rates[1]) < 1e-5 * rates[1]
    proof.check("rate on the GPU = on the CPU to 1e-5: no TF32", holds, rates)


def prove_continuation(proof: Proof) -> None:
    """Stopped early, and before the short last batch; then continued to the same bytes."""
    steps = loop._Loop.steps
    for last in (3 if DOUBLE else 10, FULL_STEPS):

        def stopping(self: loop._Loop, last: int = last) -> Iterator[None]:
            for count, step in enumerate(steps(self), start=1):
                if count == last:
                    stop_flag.received = signal.SIGINT
                yield step

        with put(loop._Loop, "steps", stopping):
            code = proof.train("stopped", "--epochs", 2)
        stop_flag.received = None
        proof.run("train", "--resume", proof.folder / "stopped", *proof.cache)
        gap = proof.gap("graph", "stopped")
        proof.check(f"stopped after {last} steps, continued", code == 130 and gap == 0, (code, gap))


def prove_mapped(proof: Proof) -> None:
    """A set that stays on the disk."""
    folder = proof.folder
    pixels = np.random.default_rng(0).integers(0, 256, (900, 16, 16), dtype=np.uint8)
    np.save(folder / "own.npy", pixels)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "a.png")
    data, run = ("--data-dir", folder / "cache"), ("-m", folder / "mapped")
    with put(reading, "memory_for_images", lambda: 30_000):
        own = ("train", "-d", folder / "own.npy", *data, "-o", folder / "mapped", "--force")
        code, _ = proof.run(*own, "--epochs", 2, "--binarize", "static")
        proof.check("train on a mapped set", code == 0)
        proof.check("eval of a mapped set", proof.run("eval", *run, *data)[0] == 0)
        walk = ("--interpolate", folder / "a.png", 1, "-o", folder / "i.png", "--force")
        code, _ = proof.run("sample", *run, *data, *walk)
        proof.check("interpolate from a file to a mapped image", code == 0)


def prove_commands(proof: Proof) -> None:
    """Every command there is."""
    here = proof.folder
    commands = [
        f"eval --importance-samples 100 --limit 200 --plot {here}/l.png --per-image {here}/s.csv"
        " --latents",
        "eval --prior gmm --limit 200",
        f"reconstruct -o {here}/r.png",
        f"reconstruct --heatmap --grid {here}/h.png",
        f"sample -o {here}/s.png",
        f"sample -o {here}/s.npy",
        f"sample --interpolate 0 1 -o {here}/m.gif",
        f"sample --traverse -o {here}/t.png",
        f"sample --manifold -o {here}/f.png",
        f"export --format html -o {here}/e.html",
        f"export --format safetensors --half -o {here}/h.safetensors",
        f"sample --prior gmm -o {here}/g.png",
    ]
    if not DOUBLE:
        with contextlib.suppress(ImportError):
            importlib.import_module("onnxruntime")
            commands.append(f"export -o {here}/onnx")
    with put(flow_matching, "MOST_STEPS", 20):
        code, _ = proof.run(
            *("sample", "-m", here / "graph", "--prior", "flow-matching"),
            *("-o", here / "w.png", *proof.cache, "--force"),
        )
    proof.check("sample --prior flow-matching", code == 0)
    for command in commands:
        name, *options = command.split()
        code, _ = proof.run(name, "-m", here / "graph", *options, *proof.cache, "--force")
        proof.check(name + " " + " ".join(options[:2]), code == 0)


def prove_other_models(proof: Proof) -> None:
    """Commands on models whose latents or prior are of another kind."""
    for name, options in (
        ("flow", "--prior flow"),
        ("mixture", "--prior mixture"),
        ("grid", "--arch grid --hidden 16 --likelihood logistic-mixture"),
    ):
        proof.train(name, "--epochs", 1, *options.split())
        for command in (
            "eval --importance-samples 100 --limit 100",
            f"reconstruct --json -o {proof.folder}/r.png",
            f"sample -o {proof.folder}/s.png",
        ):
            words = (*command.split(), "-m", proof.folder / name, *proof.cache)
            force = () if command.startswith("eval") else ("--force",)
            code, _ = proof.run(*words, *force)
            proof.check(f"{options}: {command.split()[0]}", code == 0)


def prove_several(proof: Proof) -> None:
    """Nccl with one process, and a GPU that is not the current one."""
    if not DOUBLE:
        words = ["torchrun", "--nproc-per-node", "1", "-m", "vaecli", "train", *proof.data]
        words += ["-b", str(BATCH), "--epochs", "2", "-o", str(proof.folder / "ddp"), "--force"]
        code = subprocess.run([*words, "-q"], check=False).returncode
        gap = proof.gap("graph", "ddp") if code == 0 else code
        proof.check("torchrun, nccl, one process", code == 0 and gap < 1e-3, gap)
    if torch.cuda.device_count() > 1:
        proof.train("second", "--epochs", 2, device="cuda:1")
        gap = proof.gap("graph", "second")
        proof.check("cuda:1 = cuda:0", gap < 1e-4, gap)


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "proof").resolve()
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        seen = None
        if DOUBLE:
            sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
            seen = stack.enter_context(importlib.import_module("doubles.cuda").double(devices=2))
        print(torch.__version__, torch.cuda.get_device_name(), flush=True)
        proof = Proof(folder)
        stack.enter_context(put(cuda_graph.CudaGraphs, "record", counting(proof)))
        stack.enter_context(put(stepping.Stepper, "_fit_batch", strict()))
        prove_training(proof)
        prove_evaluation(proof)
        prove_continuation(proof)
        prove_mapped(proof)
        prove_commands(proof)
        prove_other_models(proof)
        prove_several(proof)
        if seen is not None:
            steps = {"a training step"}
            proof.check("no product outside of training in TF32", set(seen.tf32) == steps)
            proof.check("nothing went past a record", seen.elsewhere == 0, seen.elsewhere)
    held, count = sum(proof.results), len(proof.results)
    print(f"{held} of {count} hold, in {time.monotonic() - began:.0f} s")
    return int(held < count)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # tensors of the double must not outlive it
