"""Turns a training request into a run: new, continued, or already finished."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vaecli.config import ModelConfig, RunConfig
from vaecli.data import catalogue
from vaecli.data.origin import Options
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ModelError, UsageError
from vaecli.model import precision
from vaecli.model.vae import VAE
from vaecli.runs import directory, weights
from vaecli.runs.load import load_model
from vaecli.training.configuration import MODEL_SETTINGS, configuration, require_sound, training
from vaecli.training.continuing import Existing
from vaecli.training.objective import most_images
from vaecli.training.plan import Plan, Request
from vaecli.training.provenance import Provenance
from vaecli.training.settings import Settings, as_text


def plan(request: Request, reading: Reading) -> Plan:
    """Decide what a training request means, and load its images.

    Raises:
        UsageError: bad values, contradictions, or something else at the output.
        ModelError: the run to resume is missing, damaged or of other data.
    """
    _check(request)
    initial = digest = None
    if request.init_from is not None:
        loaded = load_model(request.init_from)
        initial = loaded.model
        digest = weights.digest(loaded.weights)
        request = _starting_from(request, initial)
    if request.resume is not None:
        run = directory.open_run(Path(request.resume))
        return Existing(request, Provenance.of(run), reading, initial).resumed(digest)
    occupied = request.output is not None and not directory.is_free(request.output)
    existing = None
    if occupied and (held := _held(request)) is not None:
        existing = Existing(request, Provenance.of(held), reading, initial)
    settings, name = request.settings, request.data or catalogue.AUTO
    options = Options(**settings.given(Options))
    if existing is not None and name == catalogue.AUTO:
        name, options = existing.provenance.whereabouts(settings=settings)
    dataset = catalogue.load(name, reading, options).limited(settings.limit)
    config = configuration(settings, dataset, request.environment, digest)
    if initial is not None:
        _require_fit(config.model, initial.config, request.init_from)
    if existing is not None:
        return existing.as_configured(config, dataset)
    return Plan(config, dataset, request.output, "new", replaces=occupied, initial=initial)


def followed(message: dict[str, Any], reading: Reading) -> Plan:
    """The plan of the first process, as `Plan.to_json` tells it; reads the images, writes nothing.

    Raises:
        DataError: the images here are not those of the first process.
    """
    config = RunConfig.from_json(message["config"])
    options = None if message["options"] is None else Options(**message["options"])
    dataset = catalogue.load(message["location"], reading, options).limited(config.training.limit)
    if not reading.checked and dataset.fingerprint() != config.data.fingerprint:
        raise DataError(
            f"--data {message['location']}: on {platform.node()} it holds other images than on the"
            " machine of the first process",
            "Put the same files on every machine, or on a file system that they share.",
        )
    path = None if message["path"] is None else Path(message["path"])
    return Plan(config, dataset, path, message["status"])


def smaller(config: RunConfig) -> str:
    """Options that make a step need less memory."""
    training = config.training
    together = most_images(config.model, training.importance_samples)
    in_parts = together is not None and together < training.batch_size
    if in_parts and together == 1:
        return f"--importance-samples {training.importance_samples // 2}"
    if in_parts or training.batch_size == 1:  # the batch is not what fills the memory
        return "a narrower --hidden"
    return f"--batch-size {training.batch_size // 2}"


def _starting_from(request: Request, initial: VAE) -> Request:
    """The request with the architecture of the weights where it was not given."""
    taken = {name: getattr(initial.config, name) for name in MODEL_SETTINGS}
    return replace(request, settings=replace(Settings(**taken), **request.settings.given()))


def _require_fit(config: ModelConfig, theirs: ModelConfig, source: object) -> None:
    differing = [
        f"{name}: the weights have {as_text(getattr(theirs, name))}, not {as_text(value)}"
        for name in ("image_shape", "classes", *MODEL_SETTINGS)
        if (value := getattr(config, name)) != getattr(theirs, name)
    ]
    if differing:
        raise ModelError(
            f"--init-from {source}: its weights are of another architecture"
            f" ({'; '.join(differing)})",
            "Leave these settings out, or start from other weights.",
        )


def _held(request: Request) -> directory.Run | None:
    """The run at --output, which is to be continued; None where it is to be replaced."""
    assert request.output is not None
    if not directory.is_run(request.output):
        raise UsageError(
            f"--output {request.output}: it is not empty and holds no vaecli run",
            "Name a new folder; vaecli never deletes what it did not write.",
        )
    return None if request.force else directory.open_run(request.output)


def _check(request: Request) -> None:
    """Refuse what cannot be right, before any data is loaded."""
    if request.init_from is not None and request.settings.output_bias is not None:
        raise UsageError(
            "--init-from and --output-bias contradict each other: the weights include the bias",
            "Give one of them.",
        )
    require_sound(request.settings)
    asked = training(request.settings).precision
    precision.require(asked, torch.device(request.device))
