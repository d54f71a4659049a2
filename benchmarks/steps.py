"""Where the time of a training step goes: torch's profiler over the product's own step.

    python benchmarks/steps.py [--threads 2] [--steps 200]

The network of the default recipe, batches of 128 random images.  Writes `steps.json`: microseconds
per step of each kind of work, for fp32 and, where the processor has it, bf16.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "mkldnn::_linear", "aten::linear"),
    "Adam": ("aten::_fused_adam_", "Optimizer.step"),
    "softplus, exp and their gradients": ("aten::softplus", "aten::exp", "aten::sigmoid"),
    "ReLU and its gradient": ("aten::clamp_min", "aten::threshold_backward", "aten::relu"),
    "index and convert": ("aten::index", "aten::_to_copy", "aten::to", "aten::copy_", "aten::div_"),
    "sums": ("aten::sum",),
}
OTHER = "everything else"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    import torch

    from vaecli.model.precision import cpu_has_bf16

    torch.set_num_threads(options.threads)
    result = {"threads": options.threads, "torch": torch.__version__}
    for precision in ["fp32", "bf16"] if cpu_has_bf16() else ["fp32"]:
        result[precision] = profile(precision, options.steps)
    options.output.mkdir(exist_ok=True)
    (options.output / "steps.json").write_text(json.dumps(result, indent=1) + "\n")


def profile(precision: str, steps: int) -> dict[str, float]:
    """Microseconds of each kind of work in one step."""
    import tempfile

    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from vaecli.config import DataConfig, ModelConfig, RunConfig, TrainConfig
    from vaecli.data.dataset import Dataset, Images
    from vaecli.runs.directory import Run
    from vaecli.system.processes import ONE_PROCESS
    from vaecli.training.loop import _Loop

    batch, warm_up = 128, 50
    pixels = torch.randint(0, 256, (batch * (steps + warm_up), 1, 28, 28), dtype=torch.uint8)
    dataset = Dataset("random", Images(pixels), Images(pixels[:1]))
    config = RunConfig(
        model=ModelConfig(image_shape=(1, 28, 28)),
        training=TrainConfig(batch_size=batch, precision=precision),
        data=DataConfig(name="random", fingerprint="", n_train=len(pixels), n_test=1),
        environment={},
    )
    with tempfile.TemporaryDirectory() as folder:
        run, cpu = Run(Path(folder), config), torch.device("cpu")
        loop = _Loop(run, dataset, cpu, None, ONE_PROCESS, torch.float32)
        todo = loop.steps()
        for _ in range(warm_up):
            next(todo)
        with profiler(activities=[ProfilerActivity.CPU]) as trace:
            for _ in range(steps):
                next(todo)
    found: defaultdict[str, float] = defaultdict(float)
    for event in trace.key_averages():
        kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), OTHER)
        found[kind] += event.self_cpu_time_total / steps
    return dict(sorted(found.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
