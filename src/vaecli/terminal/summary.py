"""Describes a run before it trains: its first line, and the plan that --dry-run prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaecli.config import ModelConfig, TrainConfig
from vaecli.errors import option_name
from vaecli.system.typed_json import to_json
from vaecli.terminal.progress import expected
from vaecli.terminal.terminal import Terminal
from vaecli.training.recipe import SMALL_SET_STEPS

if TYPE_CHECKING:
    import torch

    from vaecli.data.dataset import Dataset
    from vaecli.data.splits_and_classes import Values
    from vaecli.training.events import Started
    from vaecli.training.plan import Plan

NAMED_CLASSES = 20
"""Class names that are listed; more are only counted."""


def introduction(plan: Plan, path: Path, event: Started, device: torch.device) -> str:
    """The first line of a training: run, model, images, device."""
    import torch

    verb = "continuing" if event.epoch or event.images else "training"
    model, threads = plan.config.model, torch.get_num_threads()
    return (
        f"{verb} {path}: {model.arch} {_widths(model)},"
        f" {event.parameters:,} parameters, {event.n_train:,} {plan.dataset.name} images"
        f" (test {event.n_test:,}), {device.type} with {threads} thread{'s' * (threads != 1)}"
    )


def show_plan(terminal: Terminal, plan: Plan, device: torch.device) -> None:
    """Print the plan of --dry-run, and time an epoch on `device` if it has the memory."""
    from vaecli.data.reading import memory_for_images
    from vaecli.model.network import count_parameters
    from vaecli.training.pace import count_activations, epoch_seconds

    model, training, data = plan.config.model, plan.config.training, plan.config.data
    parameters = count_parameters(model)
    fitted = training.fitted(data.n_train)
    batch = min(training.batch_size, fitted)
    steps = -(-fitted // batch)
    images = (data.n_train + data.n_test) * model.pixels
    activations = count_activations(model, device) + 6 * model.pixels
    memory = images + 16 * parameters + 4 * batch * activations
    seconds = epoch_seconds(plan, device) if memory < memory_for_images() else None
    value = {
        "output": None if plan.path is None else str(plan.path),
        "status": plan.status,
        "model": {"parameters": parameters, **to_json(model)},
        "training": {"steps_per_epoch": steps, **to_json(training)},
        "data": {**to_json(data), **_account(plan)},
        "memory_bytes": memory,
        "epoch_seconds": seconds,
    }
    texts = {
        "output": "the next number under runs/" if plan.path is None else str(plan.path),
        "status": plan.status,
        "model": f"{model.arch} {_widths(model)}, {model.activation}, {model.likelihood},"
        f"{_prior(model)} {parameters:,} parameters",
        **data_rows(plan),
        "steps": f"{training.epochs} epoch{'s' * (training.epochs > 1)} of"
        f" {steps:,} step{'s' * (steps > 1)} of {batch} images"
        f"{_reason(plan, steps)}",
        "recipe": f"lr {training.lr:g}, {training.schedule}, output bias {training.output_bias},"
        f" seed {training.seed}",
        "objective": _objective(training),
        "memory": f"about {memory / 1e6:,.0f} MB besides torch itself",
        "time": "not measured: half the memory of this machine is less than that"
        if seconds is None
        else expected(seconds, training.epochs),
    }
    terminal.values(value, texts)


def _reason(plan: Plan, steps: int) -> str:
    """Why there are more epochs than for others, where few images of one's own are the reason."""
    epochs = plan.config.training.epochs
    few = epochs > TrainConfig.epochs and epochs == -(-SMALL_SET_STEPS // steps)
    if plan.dataset.origin is None or not few:
        return ""
    return f": {SMALL_SET_STEPS:,} steps, because the images are few; --epochs says otherwise"


def show_data(terminal: Terminal, plan: Plan) -> None:
    """Print how the data was understood: splits, classes, size, values."""
    rows = data_rows(plan)
    width = max(map(len, rows))
    for name, text in rows.items():
        terminal.prose(f"{name:<{width}}  {text}")


def data_rows(plan: Plan) -> dict[str, str]:
    """How the data was understood, as rows of text."""
    dataset, data, account = plan.dataset, plan.config.data, plan.dataset.full_account
    channels, height, width = plan.config.model.image_shape
    own = "the data set's own"
    rows = {
        "data": f"{data.name}: {data.n_train:,} training and {data.n_test:,} test images of"
        f" {channels}x{height}x{width}",
        "data: training": f"{data.n_train:,}: {account.sources.get('train', own)}",
        "data: test": f"{data.n_test:,}: {account.sources.get('test', own)}",
        "data: classes": _class_list(dataset) or "none",
        "data: size": f"{height}x{width}, {'grey' if channels == 1 else 'colour'}",
        "data: values": "; ".join(map(_values_text, account.values)),
        "data: left out": "; ".join(account.left_out_texts) or "nothing",
        "data: notes": "; ".join(account.notes),
    }
    if dataset.validation is not None:
        rows["data: validation"] = (
            f"{data.n_validation:,}: {account.sources.get('validation', own)}; not trained on"
        )
    order = ("data", "data: training", "data: validation", *rows)
    return {name: rows[name] for name in order if rows.get(name)}


def _account(plan: Plan) -> dict[str, Any]:
    """How the data was understood, for --json."""
    account = plan.dataset.full_account
    return {
        "sources": account.sources,
        "classes": _class_names(plan.dataset),
        "image_shape": plan.config.model.image_shape,
        "values": [vars(values) for values in account.values],
        "left_out": [
            {"reason": reason, "count": count} for reason, count in account.left_out.items()
        ],
        "notes": account.notes,
    }


def _class_names(dataset: Dataset) -> list[str]:
    labels = {
        label
        for images in dataset.splits.values()
        if images.labels is not None
        for label in {*images.labels.tolist()}
    }
    return [name for label in sorted(labels) if (name := dataset.train.class_name(label))]


def _class_list(dataset: Dataset) -> str:
    names = _class_names(dataset)
    more = f", and {len(names) - NAMED_CLASSES:,} more" if len(names) > NAMED_CLASSES else ""
    return f"{len(names):,}: {', '.join(names[:NAMED_CLASSES])}{more}" if names else ""


def _values_text(values: Values) -> str:
    black = f"{values.black:,g} is black and " if values.black else ""
    return (
        f"{values.samples} values from {values.lowest:,g} to {values.highest:,g}, {black}"
        f"{values.white:,g} is white"
    )


OBJECTIVE = "beta", "warmup_epochs", "free_bits", "importance_samples", "gradient", "binarize"
"""Settings of what is optimised."""


def _objective(training: TrainConfig) -> str:
    parts = [
        f"{option_name(name)} {value}"
        for name in OBJECTIVE
        if (value := getattr(training, name)) != getattr(TrainConfig, name)
    ]
    return ", ".join(parts) or "the loss itself"


def _prior(model: ModelConfig) -> str:
    prior = "" if model.prior == "normal" else f" {model.prior} prior,"
    return f"{prior} {len(model.classes):,} classes given," if model.classes else prior


def _widths(model: ModelConfig) -> str:
    if model.arch == "conv":
        from vaecli.model.network import stages

        sizes = ["x".join(map(str, shape)) for shape in (model.image_shape, *stages(model))]
        return "-".join([*sizes, str(model.latent_dim), *reversed(sizes)])
    if model.arch == "grid":
        levels = "-".join(f"{height}x{width}" for height, width in model.levels)
        return f"{model.hidden[0]} channels at {levels}, {model.latents:,} latents"
    widths = [model.pixels, *model.hidden, model.latent_dim, *reversed(model.hidden), model.pixels]
    return "-".join(map(str, widths))
