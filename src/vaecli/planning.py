"""From what a user asked for to a run that can train: new, continued, or finished already."""

from __future__ import annotations

import difflib
import os
import platform
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vaecli import __version__, data, precision, run, weights
from vaecli.config import (
    COLOUR_LIKELIHOOD,
    RECIPES,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    contradictions,
)
from vaecli.data.dataset import Dataset
from vaecli.data.decode import Fitting
from vaecli.data.origin import Options, Origin
from vaecli.data.own import Preparation
from vaecli.errors import BusyError, DataError, ModelError, UsageError
from vaecli.model import VAE

MODEL_FIELDS = {field.name for field in fields(ModelConfig)}
TRAIN_FIELDS = {field.name for field in fields(TrainConfig)}
OWN_FIELDS = {field.name for field in fields(Options)}
DATA_FIELDS = {"image_shape", "border", "digits"}
"""What a model's configuration takes from the images."""
CONDITIONS = ("vaecli", "torch", "device", "threads", "cpu", "processes")
"""What decides the last bits besides the configuration."""


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        given: settings that were given, by field name of ModelConfig, TrainConfig and Options,
            and `data`; what is absent was not given.
        output: the run directory, or None for the next numbered one.
        resume: the run to continue exactly, or None.
        init_from: the run or weights file whose weights to start from, or None.
        force: replace what is at `output`.
        threads: CPU threads, or None for torch's choice or what the run recorded.
        device: where to compute.
        processes: how many train together.
    """

    given: Mapping[str, Any]
    output: Path | None = None
    resume: Path | None = None
    init_from: str | None = None
    force: bool = False
    threads: int | None = None
    device: str = "cpu"
    processes: int = 1


@dataclass(frozen=True)
class Source:
    """How images are found: the folder of named and prepared sets, the network, whom to tell.

    `memory` is how many bytes of the user's own images are held in memory, None as the machine
    has; larger sets are read from the disk while training.  `checked` says that another process of
    this machine has just read the same images.
    """

    folder: Path | None = None
    download: bool = True
    report: data.Say = lambda text: None
    progress: data.Progress | None = None
    memory: int | None = None
    checked: bool = False

    def load(
        self,
        name: str,
        limit: int | None = None,
        options: Options | None = None,
        preparation: Preparation | None = None,
    ) -> Dataset:
        """The set called `name`, or the images at that path, with at most `limit` to train on."""
        found = data.load(
            name,
            options=options,
            preparation=preparation,
            memory=self.memory,
            checked=self.checked,
            folder=self.folder,
            download=self.download,
            report=self.report,
            progress=self.progress,
        )
        return found if limit is None else replace(found, train=found.train.first(limit))


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
    def opened(self) -> Iterator[run.Run]:
        """Make the run directory, or take up the one there is, and hold it against others.

        Raises:
            BusyError: another process holds it, or has made a run there since the plan.
            OSError: it cannot be written.
        """
        path = self.path or run.allocate(self.dataset.name, self.config.model.arch)
        target = run.Run(path, self.config)
        with target.locked():
            if self.status == "new":
                if not self.replaces and run.is_run(path):
                    raise BusyError(
                        f"another process has made a run in {path} meanwhile",
                        "Give the same command again to continue that one.",
                    )
                if self.replaces:
                    target.clear()
                self._write_source(target)
                target.write_config()
            elif self.grows:
                # the other order could leave more epochs under a manifest that says finished
                target.checkpoints().finish(finished=False)
                target.write_config()
            if self.status == "continued":
                self._write_source(target)
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

    def _write_source(self, target: run.Run) -> None:
        origin = self.dataset.origin
        if origin is not None and target.read_source() != origin.to_json():
            target.write_source(origin.to_json())


def plan(request: Request, source: Source) -> Plan:
    """Decide what a training request means, and load its images.

    Raises:
        UsageError: bad values, contradictions, or something else at the output.
        ModelError: the run to resume is missing, damaged or of other data.
    """
    _check(request)
    initial = None
    if request.init_from is not None:
        initial = run.load_model(request.init_from).model
        request = _starting_from(request, initial)
    if request.resume is not None:
        return _resumed(request, run.open_run(request.resume), source, initial)
    existing = None
    if request.output is not None and not run.is_free(request.output):
        if not run.is_run(request.output):
            raise UsageError(
                f"--output {request.output}: it is not empty and holds no vaecli run",
                "Name a new folder; vaecli never deletes what it did not write.",
            )
        existing = None if request.force else run.open_run(request.output)
    name, options = request.given.get("data", data.AUTO), _options(Options(), request.given)
    if existing is not None and name == data.AUTO:
        name, options = whereabouts(existing, request.given)
    dataset = source.load(name, request.given.get("limit"), options)
    config = _config(request, dataset)
    if initial is not None:
        _require_fit(config.model, initial.config, request.init_from)
    if existing is None:
        replaces = request.output is not None and not run.is_free(request.output)
        return Plan(config, dataset, request.output, "new", replaces, initial=initial)
    # the machine may have another memory than the one the run was started on
    window = existing.config.data.shuffle_window
    config = replace(config, data=replace(config.data, shuffle_window=window))
    same_limit = existing.config.training.limit == config.training.limit
    if same_limit and _same_source(existing, dataset):
        _require_unchanged(existing, dataset)
    grown = _grown(existing, config.training.epochs)
    if differences := grown.config.differences(config):
        raise UsageError(
            f"--output {request.output}: it holds a run with other settings"
            f" ({'; '.join(differences)})",
            "Name a new folder, give the same settings, or replace it with --force.",
        )
    _require_constant_schedule(existing, grown)
    return _existing(request, existing, grown, dataset, source, initial)


def followed(told: dict[str, Any], source: Source) -> Plan:
    """The plan of the first process, as `Plan.to_json` tells it; reads the images, writes nothing.

    Raises:
        DataError: the images here are not those of the first process.
    """
    config = RunConfig.from_json(told["config"])
    options = None if told["options"] is None else Options(**told["options"])
    dataset = source.load(told["location"], config.training.limit, options)
    if not source.checked and dataset.fingerprint() != config.data.fingerprint:
        raise DataError(
            f"--data {told['location']}: on {platform.node()} it holds other images than on the"
            " machine of the first process",
            "Put the same files on every machine, or on a file system that they share.",
        )
    path = None if told["path"] is None else Path(told["path"])
    return Plan(config, dataset, path, told["status"])


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


def _starting_from(request: Request, initial: VAE) -> Request:
    """The request with what the weights decide: their digest, and settings that were not given."""
    taken = {k: v for k, v in vars(initial.config).items() if k not in DATA_FIELDS}
    digest = weights.digest(initial.state_dict())
    return replace(request, given={**taken, **request.given, "init_from": digest})


def _require_fit(config: ModelConfig, theirs: ModelConfig, source: object) -> None:
    compared = MODEL_FIELDS - (DATA_FIELDS - {"image_shape"})
    differing = [
        f"{name}: the weights have {_text(getattr(theirs, name))}, not {_text(value)}"
        for name, value in vars(config).items()
        if name in compared and value != getattr(theirs, name)
    ]
    if differing:
        raise ModelError(
            f"--init-from {source}: its weights are of another architecture"
            f" ({'; '.join(differing)})",
            "Leave these settings out, or start from other weights.",
        )


def _grown(found: run.Run, epochs: int) -> run.Run:
    """The run as it would be with `epochs`, if these are more than it was planned for."""
    training = found.config.training
    if epochs <= training.epochs:
        return found
    training = replace(training, epochs=epochs)
    return run.Run(found.path, replace(found.config, training=training))


def _require_constant_schedule(found: run.Run, grown: run.Run) -> None:
    training = found.config.training
    if grown is not found and training.schedule != "constant":
        raise UsageError(
            f"--epochs {grown.config.training.epochs}: {found.path} was planned for"
            f" {training.epochs} epochs, and its {training.schedule} schedule with them;"
            " only --schedule constant can be prolonged",
            f"Start a new run from its weights with --init-from {shlex.quote(str(found.path))}.",
        )


def whereabouts(found: run.Run, given: Mapping[str, Any]) -> tuple[str, Options]:
    """The name or path of a run's images, and how they were asked for.

    Args:
        found: the run.
        given: what was asked for besides; its `data` says where the user's own images are now.

    Raises:
        DataError: they are no longer there, or the run does not say where they are.
        ModelError: what the run says is damaged.
    """
    config = found.config.data
    if config.kind == "named":
        if config.name not in data.NAMES:  # never a path: a stranger wrote it
            raise ModelError(
                f"{found.path / run.CONFIG}: data.name: no data set is called {config.name!r:.80}",
                f"Name the images with --data; vaecli knows {', '.join(data.NAMES)}.",
            )
        return config.name, _options(Options(), given)
    name = given.get("data", data.AUTO)
    origin = _origin(found)
    if origin is None and name == data.AUTO:
        raise DataError(
            f"{found.path}: it does not say where the {config.kind} {config.name} is",
            "Name it with --data.",
        )
    if origin is not None and name == data.AUTO:
        name = origin.location
        if not Path(name).exists():
            raise DataError(
                f"{found.path}: its images are no longer at {name}",
                "Name the place where they are now with --data.",
            )
    return name, _options(Options() if origin is None else origin.options, given)


def is_own(found: run.Run, name: str | None) -> bool:
    """Whether `name` means the images a run was trained on; None always does."""
    if name is None or found.config.data.kind == "named":
        return name in (None, found.config.data.name)
    origin = _origin(found)
    return origin is not None and os.path.abspath(name) == origin.location


def preparation(model: ModelConfig, found: run.Run | None, *, whole: bool) -> Preparation:
    """How other images are brought to a model's shape: as the run's own, where it has a folder."""
    if found is not None and found.config.data.kind != "named":
        return Preparation(model.image_shape, whole=whole)
    fitting = Fitting(border=model.border, digits=model.digits, fit="auto", invert="auto")
    return Preparation(model.image_shape, fitting, whole)


def _origin(found: run.Run) -> Origin | None:
    content = found.read_source()
    try:
        return None if content is None else Origin.from_json(content)
    except ValueError as error:
        raise ModelError(
            f"{found.path / run.STATE / run.SOURCE}: {error}", "Start a new run."
        ) from None


def _options(start: Options, given: Mapping[str, Any]) -> Options:
    return replace(start, **{k: v for k, v in given.items() if k in OWN_FIELDS})


def _resumed(request: Request, found: run.Run, source: Source, initial: VAE | None) -> Plan:
    grown = _grown(found, request.given.get("epochs", 0))
    name, options = whereabouts(found, request.given)
    recorded = {**vars(grown.config.model), **vars(grown.config.training), **vars(options)}
    if (origin := _origin(found)) is not None:
        recorded |= vars(origin.options)
    recorded["data"] = found.config.data.name
    if found.config.data.kind != "named" and name not in data.NAMES:
        recorded["data"] = request.given.get("data")  # another place: the content must agree
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
    _require_constant_schedule(found, grown)
    dataset = source.load(name, found.config.training.limit, options)
    return _existing(request, found, grown, dataset, source, initial)


def _existing(
    request: Request,
    found: run.Run,
    grown: run.Run,
    dataset: Dataset,
    source: Source,
    initial: VAE | None,
) -> Plan:
    """The plan to go on with `found` as `grown`, which is the same run or one of more epochs."""
    _require_unchanged(found, dataset)
    precision.require(found.config.training.precision, torch.device(request.device))
    if grown is found and found.finished and found.intact:
        return Plan(found.config, dataset, found.path, "finished")
    now, then = _environment(request), found.config.environment
    differing = [
        f"{name} {then[name]} then, {now[name]} now"
        for name in CONDITIONS
        if name in then and then[name] != now[name]
    ]
    if differing:
        source.report(
            f"{found.path} was started under other conditions ({'; '.join(differing)}): the last"
            " bits of its numbers may differ from those of an uninterrupted run"
        )
    return Plan(
        grown.config,
        dataset,
        found.path,
        "continued",
        grows=grown is not found,
        initial=initial,
    )


def _same_source(found: run.Run, dataset: Dataset) -> bool:
    """Whether a run's images were asked for as these were: under one name, or at one place."""
    origin, now = _origin(found), dataset.origin
    if origin is None or now is None:
        return origin is now and found.config.data.name == dataset.name
    return (origin.location, origin.options) == (now.location, now.options)


def _require_unchanged(found: run.Run, dataset: Dataset) -> None:
    """ModelError when the images are not those a run was started with."""
    now, then, origin = _data(dataset), found.config.data, _origin(found)
    if now.fingerprint == then.fingerprint:
        return
    what = (
        f"{then.n_train:,} training and {then.n_test:,} test images then,"
        f" {now.n_train:,} and {now.n_test:,} now"
    )
    if (then.n_train, then.n_test) == (now.n_train, now.n_test):
        what = f"as many images ({now.n_train:,} and {now.n_test:,}), of other content"
    if origin is not None and dataset.origin is not None:
        what = origin.changes(dataset.origin) or what
    raise ModelError(
        f"{found.path}: the data {now.name} changed since this run was started: {what}",
        "Restore the images it was started with, or start a new run.",
    )


def _require_known(given: Mapping[str, Any]) -> None:
    known = (MODEL_FIELDS | TRAIN_FIELDS | OWN_FIELDS | {"data"}) - DATA_FIELDS - {"init_from"}
    for name in given.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(known))}."
        raise UsageError(f"{name}: unknown setting", hint)


def _check(request: Request) -> None:
    """Report every bad value at once, before any data is loaded."""
    given = request.given
    _require_known(given)
    if request.init_from is not None and "output_bias" in given:
        raise UsageError(
            "--init-from and --output-bias contradict each other: the weights include the bias",
            "Give one of them.",
        )
    model = {k: v for k, v in given.items() if k in MODEL_FIELDS}
    model_config = ModelConfig(**{"image_shape": (1, 28, 28), **model})
    train_config = _training(given)
    problems = [
        *model_config.problems(),
        *train_config.problems(),
        *_options(Options(), given).problems(),
        *contradictions(model_config, train_config.binarize),
    ]
    if problems:
        raise UsageError("; ".join(f"--{name.replace('_', '-')} {text}" for name, text in problems))
    precision.require(train_config.precision, torch.device(request.device))


def _config(request: Request, dataset: Dataset) -> RunConfig:
    given = request.given
    if not len(dataset.train) or not len(dataset.test):
        raise DataError(f"--data {dataset.name}: it has no images")
    if given.get("patience") and len(dataset.train) < 2:
        raise DataError(
            f"--data {dataset.name}: it has one training image, and --patience needs one to train"
            " on and one to hold out",
            "Leave --patience out, or use more images.",
        )
    return RunConfig(
        model=_model(given, dataset),
        training=_training(given),
        data=_data(dataset),
        environment=_environment(request),
    )


def _model(given: Mapping[str, Any], dataset: Dataset) -> ModelConfig:
    settings = {k: v for k, v in given.items() if k in MODEL_FIELDS}
    colour = dataset.image_shape[0] == 3
    if colour and given.get("binarize", "none") == "none":  # black and white need a Bernoulli
        settings.setdefault("likelihood", COLOUR_LIKELIHOOD)
    model = ModelConfig(
        image_shape=dataset.image_shape,
        border=dataset.border(),
        digits=dataset.origin is None and dataset.name in data.DIGITS,
        **settings,
    )
    if problems := [f"--{name.replace('_', '-')} {text}" for name, text in model.problems()]:
        raise DataError(
            f"--data {dataset.name}: {'; '.join(problems)}",
            "Use --arch mlp, or larger images." if model.arch == "conv" else "",
        )
    return model


def _training(given: Mapping[str, Any]) -> TrainConfig:
    """The settings of training: those given, then those tuned for the architecture."""
    recipe = RECIPES.get(given.get("arch", ModelConfig.arch), {})
    return TrainConfig(**{**recipe, **{k: v for k, v in given.items() if k in TRAIN_FIELDS}})


def _data(dataset: Dataset) -> DataConfig:
    return DataConfig(
        name=dataset.name,
        fingerprint=dataset.fingerprint(),
        n_train=len(dataset.train),
        n_test=len(dataset.test),
        kind="named" if dataset.origin is None else dataset.origin.kind,
        n_skipped=0 if dataset.origin is None else dataset.origin.skipped,
        shuffle_window=0 if dataset.origin is None else dataset.origin.window,
    )


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
