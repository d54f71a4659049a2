"""From what a user asked for to a run that can train: new, continued, or finished already."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vaecli._version import __version__
from vaecli.config import ModelConfig, RunConfig, option_name
from vaecli.data import catalogue
from vaecli.data.dataset import Dataset
from vaecli.data.origin import Options
from vaecli.errors import BusyError, DataError, ModelError, UsageError
from vaecli.model import precision
from vaecli.model.vae import VAE
from vaecli.runs import directory, weights
from vaecli.runs.load import load_model
from vaecli.system import shell
from vaecli.training import provenance
from vaecli.training.checkpoint import Checkpoints
from vaecli.training.configuration import (
    MODEL_SETTINGS,
    configuration,
    require_sound,
    training,
)
from vaecli.training.objective import most_images
from vaecli.training.provenance import DatasetLoader
from vaecli.training.settings import Settings

CONDITIONS = ("vaecli", "torch", "device", "threads", "cpu", "processes")
"""What decides the last bits besides the configuration."""


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        settings: the settings that were given.
        data: the name or path of the images, or None.
        output: the run directory, or None for the next numbered one.
        resume: the directory of the run to continue exactly, or None.
        init_from: the run or weights file whose weights to start from, or None.
        force: replace what is at `output`.
        threads: CPU threads, or None for torch's choice or what the run recorded.
        device: where to compute.
        processes: how many train together.
    """

    settings: Settings
    data: str | None = None
    output: Path | None = None
    resume: str | None = None
    init_from: str | None = None
    force: bool = False
    threads: int | None = None
    device: str = "cpu"
    processes: int = 1


@dataclass(frozen=True)
class Plan:
    """A run that can be trained; nothing is written yet.

    Attributes:
        config: of the run.
        dataset: its images.
        path: its directory, None until a number is taken.
        status: `new`, `continued`, or `finished` when there is nothing left to do.
        replaces: whether an earlier run at `path` is to be removed.
        grows: whether the run at `path` was planned for fewer epochs.
        initial: the model whose weights a new run starts from, or None.
    """

    config: RunConfig
    dataset: Dataset
    path: Path | None
    status: Literal["new", "continued", "finished"]
    replaces: bool = False
    grows: bool = False
    initial: VAE | None = None

    @contextmanager
    def opened(self) -> Iterator[directory.Run]:
        """Make the run directory, or take up the one there is, and hold it against others.

        Raises:
            BusyError: another process holds it, or has made a run there since the plan.
            OSError: it cannot be written.
        """
        path = self.path or directory.allocate(self.dataset.name, self.config.model.arch)
        target = directory.Run(path, self.config)
        with target.locked():
            if self.status == "new":
                if not self.replaces and directory.is_run(path):
                    raise BusyError(
                        f"another process has made a run in {path} meanwhile",
                        "Give the same command again to continue that one.",
                    )
                if self.replaces:
                    target.clear()
                self._write_origin(target)
                target.write_config()
            elif self.grows:
                # the other order could leave more epochs under a manifest that says finished
                Checkpoints.of(target).finish(finished=False)
                target.write_config()
            if self.status == "continued":
                self._write_origin(target)
            yield target

    def to_json(self) -> dict[str, Any]:
        """What the other processes of a group need to know of it; see `followed`."""
        origin = self.dataset.origin
        return {
            "config": self.config.to_json(),
            "path": None if self.path is None else str(self.path),
            "status": self.status,
            "location": self.dataset.name if origin is None else origin.location,
            "options": None if origin is None else vars(origin.options),
        }

    def _write_origin(self, target: directory.Run) -> None:
        origin = self.dataset.origin
        if origin is not None and target.read_origin() != origin.to_json():
            target.write_origin(origin.to_json())


def plan(request: Request, source: DatasetLoader) -> Plan:
    """Decide what a training request means, and load its images.

    Raises:
        UsageError: bad values, contradictions, or something else at the output.
        ModelError: the run to resume is missing, damaged or of other data.
    """
    _check(request)
    initial = None
    if request.init_from is not None:
        initial = load_model(request.init_from).model
        request = _starting_from(request, initial)
    if request.resume is not None:
        return _resumed(request, directory.open_run(Path(request.resume)), source, initial)
    occupied = request.output is not None and not directory.is_free(request.output)
    existing = _held(request) if occupied else None
    settings, name = request.settings, request.data or catalogue.AUTO
    options = Options(**settings.given(Options))
    if existing is not None and name == catalogue.AUTO:
        name, options = provenance.whereabouts(existing, None, settings)
    dataset = source.load(name, settings.limit, options)
    config = configuration(settings, dataset, _environment(request), _digest(initial))
    if initial is not None:
        _require_fit(config.model, initial.config, request.init_from)
    if existing is None:
        return Plan(config, dataset, request.output, "new", replaces=occupied, initial=initial)
    return _taken_up(request, existing, config, dataset, source, initial)


def followed(message: dict[str, Any], source: DatasetLoader) -> Plan:
    """The plan of the first process, as `Plan.to_json` tells it; reads the images, writes nothing.

    Raises:
        DataError: the images here are not those of the first process.
    """
    config = RunConfig.from_json(message["config"])
    options = None if message["options"] is None else Options(**message["options"])
    dataset = source.load(message["location"], config.training.limit, options)
    if not source.checked and dataset.fingerprint() != config.data.fingerprint:
        raise DataError(
            f"--data {message['location']}: on {platform.node()} it holds other images than on the"
            " machine of the first process",
            "Put the same files on every machine, or on a file system that they share.",
        )
    path = None if message["path"] is None else Path(message["path"])
    return Plan(config, dataset, path, message["status"])


def latest_unfinished() -> Path:
    """The highest numbered run that training has not finished.

    Raises:
        ModelError: there is none.
    """
    for path in directory.numbered():
        if directory.is_run(path) and not Checkpoints.of(directory.open_run(path)).finished:
            return path
    raise ModelError(
        f"no unfinished run under {directory.ROOT}/",
        "Start one with `vaecli train`, or name its folder.",
    )


def unfinished_twin(config: RunConfig) -> Path | None:
    """A numbered run of the same configuration that was not finished, or None."""
    for path in directory.numbered()[:20]:
        if directory.is_run(path):
            try:
                earlier = directory.open_run(path)
                if not Checkpoints.of(earlier).finished and not earlier.config.differences(config):
                    return path
            except ModelError:
                continue  # a damaged run is nobody's twin
    return None


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


def _digest(initial: VAE | None) -> str | None:
    return None if initial is None else weights.digest(initial.state_dict())


def _require_fit(config: ModelConfig, theirs: ModelConfig, source: object) -> None:
    differing = [
        f"{name}: the weights have {_text(getattr(theirs, name))}, not {_text(value)}"
        for name in ("image_shape", *MODEL_SETTINGS)
        if (value := getattr(config, name)) != getattr(theirs, name)
    ]
    if differing:
        raise ModelError(
            f"--init-from {source}: its weights are of another architecture"
            f" ({'; '.join(differing)})",
            "Leave these settings out, or start from other weights.",
        )


def _grown(earlier: directory.Run, epochs: int) -> directory.Run:
    """The run as it would be with `epochs`, if these are more than it was planned for."""
    training = earlier.config.training
    if epochs <= training.epochs:
        return earlier
    training = replace(training, epochs=epochs)
    return directory.Run(earlier.path, replace(earlier.config, training=training))


def _require_constant_schedule(earlier: directory.Run, grown: directory.Run) -> None:
    training = earlier.config.training
    if grown is not earlier and training.schedule != "constant":
        raise UsageError(
            f"--epochs {grown.config.training.epochs}: {earlier.path} was planned for"
            f" {training.epochs} epochs, and its {training.schedule} schedule with them;"
            " only --schedule constant can be prolonged",
            f"Start a new run from its weights with --init-from {shell.join([str(earlier.path)])}.",
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


def _taken_up(
    request: Request,
    earlier: directory.Run,
    config: RunConfig,
    dataset: Dataset,
    source: DatasetLoader,
    initial: VAE | None,
) -> Plan:
    """The plan to go on with the run at --output, which must be one of `config`."""
    # the machine may have another memory than the one the run was started on
    then = earlier.config.data
    window = then.shuffle_window
    classes = config.data.classes if then.classes else ()  # older runs did not keep them
    config = replace(config, data=replace(config.data, shuffle_window=window, classes=classes))
    same_limit = earlier.config.training.limit == config.training.limit
    if same_limit and provenance.same_origin(earlier, dataset):
        provenance.require_unchanged(earlier, dataset)
    grown = _grown(earlier, config.training.epochs)
    if differences := grown.config.differences(config):
        raise UsageError(
            f"--output {request.output}: it holds a run with other settings"
            f" ({'; '.join(differences)})",
            "Name a new folder, give the same settings, or replace it with --force.",
        )
    _require_constant_schedule(earlier, grown)
    return _existing(request, earlier, grown, dataset, source, initial)


def _resumed(
    request: Request, earlier: directory.Run, source: DatasetLoader, initial: VAE | None
) -> Plan:
    settings = request.settings
    grown = _grown(earlier, settings.epochs or 0)
    name, options = provenance.whereabouts(earlier, request.data, settings)
    recorded = {**vars(grown.config.model), **vars(grown.config.training), **vars(options)}
    if (origin := provenance.origin_of(earlier)) is not None:
        recorded |= vars(origin.options)
    recorded["data"] = earlier.config.data.name
    asked = settings.given()
    if request.data not in (None, catalogue.AUTO) and (
        earlier.config.data.kind == "named" or name in catalogue.NAMES
    ):  # at another path the content must agree
        asked = {"data": request.data, **asked}
    if initial is not None:
        asked["init_from"] = _digest(initial)
    differing = [
        f"{option_name(name)}: the run has {_text(recorded[name])}, not {_text(value)}"
        for name, value in asked.items()
        if recorded[name] != value
    ]
    if differing:
        raise UsageError(
            f"--resume {earlier.path}: {'; '.join(differing)}",
            "Leave these options out, or start a new run.",
        )
    _require_constant_schedule(earlier, grown)
    dataset = source.load(name, earlier.config.training.limit, options)
    return _existing(request, earlier, grown, dataset, source, initial)


def _existing(
    request: Request,
    earlier: directory.Run,
    grown: directory.Run,
    dataset: Dataset,
    source: DatasetLoader,
    initial: VAE | None,
) -> Plan:
    """The plan to go on with `earlier` as `grown`, which is the same run or one of more epochs."""
    provenance.require_unchanged(earlier, dataset)
    precision.require(earlier.config.training.precision, torch.device(request.device))
    if grown is earlier and Checkpoints.of(earlier).finished and earlier.intact:
        return Plan(earlier.config, dataset, earlier.path, "finished")
    now, then = _environment(request), earlier.config.environment
    differing = [
        f"{name} {then[name]} then, {now[name]} now"
        for name in CONDITIONS
        if name in then and then[name] != now[name]
    ]
    if differing:
        source.report(
            f"{earlier.path} was started under other conditions ({'; '.join(differing)}): the last"
            " bits of its numbers may differ from those of an uninterrupted run"
        )
    return Plan(
        grown.config,
        dataset,
        earlier.path,
        "continued",
        grows=grown is not earlier,
        initial=initial,
    )


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


def _environment(request: Request) -> dict[str, str | int]:
    return {
        "vaecli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": request.device,
        "threads": request.threads or torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processes": request.processes,
    }


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
