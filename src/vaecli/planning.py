"""From what a user asked for to a run that can train: new, continued, or finished already."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from vaecli import __version__, data, run
from vaecli.config import DataConfig, ModelConfig, RunConfig, TrainConfig, contradictions
from vaecli.data.dataset import Dataset
from vaecli.errors import DataError, ModelError, UsageError

MODEL_FIELDS = {field.name for field in fields(ModelConfig)}
TRAIN_FIELDS = {field.name for field in fields(TrainConfig)}


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        given: settings that were given, by field name of ModelConfig and TrainConfig, and `data`;
            what is absent was not given.
        output: the run directory, or None for the next numbered one.
        resume: the run to continue exactly, or None.
        force: replace what is at `output`.
        threads: CPU threads, or None for torch's choice or what the run recorded.
        device: where to compute.
    """

    given: Mapping[str, Any]
    output: Path | None = None
    resume: Path | None = None
    force: bool = False
    threads: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Source:
    """How images are found: the folder of named sets, the network, and whom to tell."""

    folder: Path | None = None
    download: bool = True
    report: data.Say = lambda text: None
    progress: data.Progress | None = None

    def load(self, name: str, limit: int | None = None) -> Dataset:
        """The set called `name`, with at most `limit` training images."""
        found = data.load(
            name,
            folder=self.folder,
            download=self.download,
            report=self.report,
            progress=self.progress,
        )
        return Dataset(found.name, found.train.first(limit), found.test)


@dataclass(frozen=True)
class Plan:
    """A run that can be trained; nothing is written yet.

    Attributes:
        config: of the run.
        dataset: its images.
        path: its directory, None until a number is taken.
        status: `new`, `continued`, or `finished` when there is nothing left to do.
        replaces: whether an earlier run at `path` is to be removed.
    """

    config: RunConfig
    dataset: Dataset
    path: Path | None
    status: Literal["new", "continued", "finished"]
    replaces: bool = False

    def prepare(self) -> run.Run:
        """Make the run directory, or take up the one there is."""
        path = self.path or run.allocate(self.dataset.name, self.config.model.arch)
        target = run.Run(path, self.config)
        if self.status == "new":
            with target.locked():
                if self.replaces:
                    target.clear()
                target.write_config()
        return target


def plan(request: Request, source: Source) -> Plan:
    """Decide what a training request means, and load its images.

    Raises:
        UsageError: bad values, contradictions, or something else at the output.
        ModelError: the run to resume is missing, damaged or of other data.
    """
    _check(request.given)
    if request.resume is not None:
        return _resumed(request, run.open_run(request.resume), source)
    existing = None
    if request.output is not None and not run.is_free(request.output):
        if not run.is_run(request.output):
            raise UsageError(
                f"--output {request.output}: it is not empty and holds no vaecli run",
                "Name a new folder; vaecli never deletes what it did not write.",
            )
        existing = None if request.force else run.open_run(request.output)
    name = request.given.get("data", data.AUTO)
    if existing is not None and name == data.AUTO:
        name = existing.config.data.name
    dataset = source.load(name, request.given.get("limit"))
    config = _config(request, dataset)
    if existing is None:
        replaces = request.output is not None and not run.is_free(request.output)
        return Plan(config, dataset, request.output, "new", replaces)
    if differences := existing.config.differences(config):
        raise UsageError(
            f"--output {request.output}: it holds a run with other settings"
            f" ({'; '.join(differences)})",
            "Name a new folder, give the same settings, or replace it with --force.",
        )
    return _existing(existing, dataset)


def latest_unfinished() -> Path:
    """The highest numbered run that training has not finished.

    Raises:
        ModelError: there is none.
    """
    for path in run.numbered():
        if run.is_run(path) and not run.open_run(path).finished:
            return path
    raise ModelError(
        f"no unfinished run under {run.ROOT}/", "Start one with `vaecli train`, or name its folder."
    )


def unfinished_twin(config: RunConfig) -> Path | None:
    """A numbered run of the same configuration that was not finished, or None."""
    for path in run.numbered()[:20]:
        if run.is_run(path):
            try:
                found = run.open_run(path)
                if not found.finished and not found.config.differences(config):
                    return path
            except ModelError:
                continue  # a damaged run is nobody's twin
    return None


def _resumed(request: Request, found: run.Run, source: Source) -> Plan:
    recorded = {**vars(found.config.model), **vars(found.config.training)}
    recorded["data"] = found.config.data.name
    differing = [
        f"--{name.replace('_', '-')}: the run has {_text(recorded[name])}, not {_text(value)}"
        for name, value in request.given.items()
        if recorded[name] != value and not (name == "data" and value == data.AUTO)
    ]
    if differing:
        raise UsageError(
            f"--resume {found.path}: {'; '.join(differing)}",
            "Leave these options out, or start a new run.",
        )
    dataset = source.load(found.config.data.name, found.config.training.limit)
    return _existing(found, dataset)


def _existing(found: run.Run, dataset: Dataset) -> Plan:
    if dataset.fingerprint() != found.config.data.fingerprint:
        raise ModelError(
            f"{found.path}: the data {dataset.name} changed since this run was started",
            "Restore the images it was started with, or start a new run.",
        )
    status: Literal["finished", "continued"] = "finished" if found.finished else "continued"
    return Plan(found.config, dataset, found.path, status)


def _check(given: Mapping[str, Any]) -> None:
    """Report every bad value at once, before any data is loaded."""
    model = {k: v for k, v in given.items() if k in MODEL_FIELDS}
    training = {k: v for k, v in given.items() if k in TRAIN_FIELDS}
    model_config = ModelConfig(**{"image_shape": (1, 28, 28), **model})
    train_config = TrainConfig(**training)
    problems = [
        *model_config.problems(),
        *train_config.problems(),
        *contradictions(model_config, train_config.binarize),
    ]
    if problems:
        raise UsageError("; ".join(f"--{name.replace('_', '-')} {text}" for name, text in problems))


def _config(request: Request, dataset: Dataset) -> RunConfig:
    given = request.given
    if not len(dataset.train) or not len(dataset.test):
        raise DataError(f"--data {dataset.name}: it has no images")
    return RunConfig(
        model=ModelConfig(
            image_shape=dataset.image_shape,
            border=dataset.border(),
            digits=dataset.name in data.DIGITS,
            **{k: v for k, v in given.items() if k in MODEL_FIELDS},
        ),
        training=TrainConfig(**{k: v for k, v in given.items() if k in TRAIN_FIELDS}),
        data=DataConfig(
            name=dataset.name,
            fingerprint=dataset.fingerprint(),
            n_train=len(dataset.train),
            n_test=len(dataset.test),
        ),
        environment={
            "vaecli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": request.device,
            "threads": request.threads or torch.get_num_threads(),
        },
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
