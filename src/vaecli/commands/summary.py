"""A run in words before it trains: its first line, and the plan that --dry-run prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaecli.config import ModelConfig, TrainConfig, option_name, to_json
from vaecli.ui import Terminal

if TYPE_CHECKING:
    import torch

    from vaecli.events import Started
    from vaecli.planning import Plan


def introduction(plan: Plan, path: Path, event: Started, device: torch.device) -> str:
    """What is trained, where, on what, and by what."""
    import torch

    verb = "continuing" if event.epoch or event.images else "training"
    model, threads = plan.config.model, torch.get_num_threads()
    return (
        f"{verb} {path}: {model.arch} {_widths(model)},"
        f" {event.parameters:,} parameters, {event.n_train:,} {plan.dataset.name} images"
        f" (test {event.n_test:,}), {device.type} with {threads} thread{'s' * (threads != 1)}"
    )


def show_plan(terminal: Terminal, plan: Plan) -> None:
    """What --dry-run prints."""
    from vaecli.model import count_activations, count_parameters

    model, training, data = plan.config.model, plan.config.training, plan.config.data
    parameters = count_parameters(model)
    fitted = training.fitted(data.n_train)
    batch = min(training.batch_size, fitted)
    steps = -(-fitted // batch)
    images = (data.n_train + data.n_test) * model.pixels
    activations = count_activations(model) + 6 * model.pixels
    memory = images + 16 * parameters + 4 * batch * activations
    value = {
        "output": None if plan.path is None else str(plan.path),
        "status": plan.status,
        "model": {"parameters": parameters, **to_json(model)},
        "training": {"steps_per_epoch": steps, **to_json(training)},
        "data": to_json(data),
        "memory_bytes": memory,
    }
    texts = {
        "output": "the next number under runs/" if plan.path is None else str(plan.path),
        "status": plan.status,
        "model": f"{model.arch} {_widths(model)}, {model.activation}, {model.likelihood},"
        f" {parameters:,} parameters",
        "data": f"{data.name}: {data.n_train:,} training and {data.n_test:,} test images of"
        f" {'x'.join(map(str, model.image_shape))}",
        "steps": f"{training.epochs} epochs of {steps:,} steps of {batch} images",
        "recipe": f"lr {training.lr:g}, {training.schedule}, output bias {training.output_bias},"
        f" seed {training.seed}",
        "objective": _objective(training),
        "memory": f"about {memory / 1e6:,.0f} MB besides torch itself",
    }
    terminal.values(value, texts)


def _objective(training: TrainConfig) -> str:
    parts = [
        f"{option_name(name)} {value}"
        for name in ("beta", "warmup_epochs", "free_bits", "importance_samples", "binarize")
        if (value := getattr(training, name)) != getattr(TrainConfig, name)
    ]
    return ", ".join(parts) or "the loss itself"


def _widths(model: ModelConfig) -> str:
    if model.arch == "conv":
        from vaecli.convolution import stages

        sizes = ["x".join(map(str, shape)) for shape in (model.image_shape, *stages(model))]
        return "-".join([*sizes, str(model.latent_dim), *reversed(sizes)])
    widths = [model.pixels, *model.hidden, model.latent_dim, *reversed(model.hidden), model.pixels]
    return "-".join(map(str, widths))
