"""Writes docs/performance.md and its two pictures from the results of the other benchmarks.

    python benchmarks/performance.py

Reads speed.json, quality.json, both with -cuda, likelihood-1.json and -2.json, startup.json and
steps.json in benchmarks/results; what was not measured is said to be so.
"""

from __future__ import annotations

import json
import math
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
NOT_MEASURED = "not measured"
LABELS = {
    "vaecli": "vaecli",
    "vaecli-bf16": "vaecli --precision bf16",
    "textbook": "the PyTorch example",
    "textbook-compiled": "the PyTorch example, torch.compile",
    "pythae": "Pythae",
    "jax": "JAX + optax, jitted",
    "products": "the matrix products alone",
    "products-bf16": "the matrix products alone, bf16",
}
CURVES = {
    "textbook": "the PyTorch example",
    "recipe-20": "vaecli train",
    "recipe-20-bf16": "vaecli train --precision bf16",
    "recipe-5": "vaecli train --epochs 5",
    "recipe-5-bf16": "vaecli train --epochs 5 --precision bf16",
}
GOAL = 104.0
"""Test loss, nats per image, at which the PyTorch example is after about 20 epochs."""
Rounds = dict[str, list[dict[str, Any]]]


def main() -> None:
    speed, cuda, quality = load("speed"), load("speed-cuda"), load("quality")
    cuda_quality = load("quality-cuda")
    page = TEMPLATE.format(
        machine=machine(speed),
        speed=speed_table(speed and speed["rounds"]),
        quality=quality_table(quality and quality["curves"]),
        gpu=cuda["gpu"] if cuda else NOT_MEASURED,
        cuda_machine=machine(cuda),
        cuda=speed_table(cuda and cuda["rounds"], ("vaecli", "vaecli-bf16", "textbook", "jax")),
        cuda_quality=quality_table(cuda_quality and cuda_quality["curves"]),
        steps=steps_table(load("steps")),
        startup=startup_table(load("startup")),
        likelihood=" and ".join(likelihood(threads) for threads in (1, 2)),
    )
    (DOCS / "performance.md").write_text(page)
    if speed is not None:
        picture(speed["rounds"]).savefig(DOCS / "images" / "speed.png", dpi=150)
    if quality is not None:
        curves_picture(quality["curves"]).savefig(DOCS / "images" / "quality.png", dpi=150)


def load(name: str) -> dict[str, Any] | None:
    """The results of a benchmark, or None."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def machine(speed: dict[str, Any] | None) -> str:
    """What the figures were measured on."""
    if speed is None:
        return NOT_MEASURED
    found = speed["versions"].items()
    versions = ", ".join(f"{name} {version}" for name, version in found if version[0].isdigit())
    return f"{speed['cores']} {speed['machine']} cores, {speed['threads']} threads; {versions}"


def ratio(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> float:
    """Median over rounds of how many times as long `one` takes."""
    return median(a["seconds"] / b["seconds"] for a, b in zip(one, two, strict=True))


def speed_table(rounds: Rounds | None, names: tuple[str, ...] = tuple(LABELS)) -> str:
    """Medians, and ratios taken round by round."""
    lines = [
        "| one epoch, test pass included | seconds | vaecli is faster by | with bf16 | test loss |"
        " peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        cells = [NOT_MEASURED] * 5
        bf16 = rounds is not None and "vaecli-bf16" in rounds
        if rounds and name in rounds:
            epochs = rounds[name]
            loss = epochs[-1]["test_loss"]
            cells = [
                f"{median(epoch['seconds'] for epoch in epochs):.2f}",
                f"{ratio(epochs, rounds['vaecli']):.2f}",
                f"{ratio(epochs, rounds['vaecli-bf16']):.2f}" if bf16 else NOT_MEASURED,
                "" if loss is None else f"{loss:.2f}",
                f"{epochs[-1]['peak_memory'] / 1e6:,.0f} MB",
            ]
        lines.append(f"| {' | '.join([LABELS[name], *cells])} |")
    return "\n".join(lines)


def quality_table(curves: Rounds | None) -> str:
    """Last losses, and the time until the textbook's last loss is reached."""
    if curves is None:
        return NOT_MEASURED
    lines = [
        f"| | last test loss | training time | until {GOAL:.1f} | sooner by |",
        "| --- | --- | --- | --- | --- |",
    ]
    textbook = reached(curves["textbook"])
    for name, label in CURVES.items():
        epochs, seconds = curves[name], times(curves[name])
        until = [f"{reached(epochs):.1f} s", f"{textbook / reached(epochs):.1f}x"]
        cells = [label, f"{epochs[-1]['test_loss']:.2f}", f"{seconds[-1]:.1f} s", *until]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reached(epochs: list[dict[str, Any]]) -> float:
    """Seconds until a test loss of `GOAL`; infinite where it is not reached."""
    found = zip(times(epochs), epochs, strict=True)
    return next((seconds for seconds, epoch in found if epoch["test_loss"] <= GOAL), math.inf)


def times(epochs: list[dict[str, Any]]) -> list[float]:
    """Seconds at the end of each epoch."""
    return list(accumulate(epoch["seconds"] for epoch in epochs))


def steps_table(steps: dict[str, Any] | None) -> str:
    """Microseconds per step of each kind of work, and its share."""
    if steps is None:
        return NOT_MEASURED
    columns = [name for name in ("fp32", "bf16") if name in steps]
    lines = [
        f"| microseconds per step | {' | '.join(columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for kind in steps["fp32"]:
        cells = []
        for name in columns:
            share = steps[name].get(kind, 0.0) / sum(steps[name].values())
            cells.append(f"{steps[name].get(kind, 0.0):,.0f} ({share:.0%})")
        lines.append(f"| {' | '.join([kind, *cells])} |")
    return "\n".join(lines)


def startup_table(startup: dict[str, Any] | None) -> str:
    """Medians of processor time and peak memory, beside an import of torch."""
    if startup is None:
        return NOT_MEASURED
    rounds: Rounds = startup["rounds"]
    torch = median(row["processor"] for row in rounds["import torch"])
    lines = ["| | seconds | of `import torch` | peak memory |", "| --- | --- | --- | --- |"]
    for name, rows in rounds.items():
        time, memory = (median(row[what] for row in rows) for what in ("processor", "peak_memory"))
        shown = name if name.startswith("the same") else f"`{name}`"
        lines.append(f"| {shown} | {time:.2f} | {time / torch:.2f} | {memory / 1e6:,.0f} MB |")
    return "\n".join(lines)


def likelihood(threads: int) -> str:
    """How many times as long as its products an estimate takes."""
    found = load(f"likelihood-{threads}")
    if found is None:
        return NOT_MEASURED
    times = median(each["estimate"] / each["products"] for each in found["rounds"])
    return f"{times:.2f} on {threads} thread{'s'[: threads - 1]}"


def picture(rounds: Rounds) -> Any:
    """A bar per contender, a dot per round."""
    from matplotlib.figure import Figure

    names = [name for name in LABELS if name in rounds]
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        seconds = [epoch["seconds"] for epoch in rounds[name]]
        colour = "#0072b2" if name.startswith("vaecli") else "#999999"
        axes.barh(place, median(seconds), color=colour, height=0.65)
        axes.plot(seconds, [place] * len(seconds), ".", color="black", markersize=4)
        axes.annotate(
            f"{median(seconds):.1f} s",
            (max(seconds), place),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds per epoch, test pass included; a dot per round")
    return figure


def curves_picture(curves: Rounds) -> Any:
    """Test loss against training time; the dashed line is where the textbook ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = ("#999999", "#0072b2", "#56b4e9", "#d55e00", "#e69f00")
    for (name, label), colour in zip(CURVES.items(), colours, strict=True):
        losses = [epoch["test_loss"] for epoch in curves[name]]
        axes.plot(times(curves[name]), losses, ".-", color=colour, label=label, linewidth=1.2)
    axes.axhline(GOAL, color="#999999", linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    ticks = (2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_ylim(GOAL - 4, GOAL + 16)
    axes.set_xlabel("training time in seconds, test passes included (log scale)")
    axes.set_ylabel("test loss, nats/image")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


TEMPLATE = """\
# Performance

This page is made by `python benchmarks/performance.py` from the raw rounds in
`benchmarks/results/`. The benchmarks need `pip install --group bench`. All contenders of a table
ran in turn in one go, each in its own process, after a warm-up round. So a slow minute of the
machine affects all of them. Seconds are medians on this machine and say little about yours. The
ratios, taken round by round, say more.

## Training

All contenders do the same work: 784-400-20-400-784 on MNIST, batches of 128, Adam at 1e-3 without
schedule. The benchmark asserts that the test losses lie within 2.5 nats. The machine and versions:
{machine}.

{speed}

![Seconds per epoch](images/speed.png)

The PyTorch example loads each image separately through `DataLoader` and `ToTensor`, on the same
cores that train. vaecli's gradient is written out by hand, into memory that is kept from step to
step. JAX compiles before the first round, and its compiler fuses everything that is not a matrix
product. The processor is an AMD EPYC with AVX-512 and bfloat16, whose speed changed by up to a half
from round to round (the dots of the picture): vaecli and JAX are about equally fast on it. In five
runs of slightly earlier versions, JAX took 0.90 to 1.10 times as long. The matrix products alone
take two thirds of the time of JAX here, so little is left to be faster by. On a quiet processor
without AVX-512, an earlier vaecli was 4.08 times as fast as the example, 1.98 times as Pythae, and
0.92 times as JAX. The commands wait more briefly for a busy core than `vaecli.train` does in a
program that has loaded torch already, as here; that cost them 9 % on this machine
([FAQ](faq.md)).

### Loss against time

What users want is the same loss, not the same work. Here vaecli uses its [recipe](recipe.md), and
the example its own. The machine is the same.

{quality}

![Test loss against training time](images/quality.png)

### Where a step goes

This is what torch's profiler shows for vaecli's own training step, with batches of 128:

{steps}

The time outside the matrix products is spread thin. Three things were tried and did not help on
such a processor: raising glibc's `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` against page
faults in the gradients of the first layer; flushing denormals; and oneDNN's reduced-precision mode
for float32, which does nothing with AVX-512 bf16 but without AMX. `--precision bf16` halves the
time of a product.

`--precision bf16` changes the matrix products of training only. Weights, gradients, Adam, the loss
and every evaluation stay in float32.

### The likelihood estimate

`eval --importance-samples 5000` decodes 5,000 latents per image. Its time, divided by that of the
matrix products of the decoder alone (into kept memory), is {likelihood}
(`benchmarks/likelihood.py`).

## CUDA

A step is recorded once as a CUDA graph and replayed, which saves the cost of launching its kernels
one by one ([GPUs](gpus.md)). `speed.py` and `quality.py` measure it with `--device cuda`.
This table is of one {gpu} beside {cuda_machine}:

{cuda}

JAX has its images on the GPU here, and launches one compiled step per batch. In the next table, of
loss against time on another H200, earlier, the first epoch includes all one-time work, such
as recording the step or starting cuBLAS:

{cuda_quality}

## Start-up and memory

The table shows the processor time of a process (median of 9 rounds side by side) and its peak
memory, on two cores of the same AMD EPYC. torch is 2.14 with CUDA, on a machine without a GPU.
`sample` is 64 images:

{startup}

Side by side in one run, five rounds on a slower machine, `reconstruct` of 1,000 PNGs of 28x28 takes
3.2 s, where the version with torch took 12.3 s. In an earlier run, 100 PNGs of 64x64 with conv took
1.4 s instead of 5.1 s.

On the CPU, `sample` and `reconstruct` import torch only for work that repays it: above about 4,000
digits of conv, or 3,000 pictures of 64x64. `vaecli --help` and `--version` import neither torch nor
numpy nor matplotlib; most of the time of `--help` is typer's own help renderer. No command imports
torchvision, and matplotlib only draws after the results are safe and shown.
"""

if __name__ == "__main__":
    main()
