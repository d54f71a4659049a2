"""Existing runs: to continue, to resume, or already finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vaecli.config import RunConfig
from vaecli.data import catalogue
from vaecli.data.dataset import Dataset
from vaecli.data.reading import Reading
from vaecli.errors import ModelError, UsageError, option_name
from vaecli.model import precision
from vaecli.model.vae import VAE
from vaecli.runs import directory
from vaecli.system import shell
from vaecli.training.checkpoint import Checkpoints
from vaecli.training.plan import Plan, Request
from vaecli.training.provenance import Provenance
from vaecli.training.settings import as_text

CONDITIONS = ("vaecli", "torch", "device", "threads", "cpu", "processes")
"""What decides the last bits besides the configuration."""


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


def _grown(earlier: directory.Run, epochs: int) -> directory.Run:
    """The run as it would be with `epochs`, if these are more than it was planned for."""
    training = earlier.config.training
    if epochs <= training.epochs:
        return earlier
    if training.warmup_epochs == training.epochs and training.schedule != "constant":
        training = replace(training, warmup_epochs=epochs)  # as the default of a grid in colour
    training = replace(training, epochs=epochs)
    return directory.Run(earlier.path, replace(earlier.config, training=training))


def _require_constant_schedule(earlier: directory.Run, grown: directory.Run) -> None:
    training = earlier.config.training
    if grown is not earlier and training.schedule != "constant":
        raise UsageError(
            f"--epochs {grown.config.training.epochs}: {earlier.path} was planned for"
            f" {training.epochs} epochs, and its {training.schedule} schedule with them;"
            " only --schedule constant can be extended",
            f"Start a new run from its weights with --init-from {shell.join([str(earlier.path)])}.",
        )


@dataclass(frozen=True)
class Existing:
    """A run that a request goes on with.

    Attributes:
        request: what was asked for.
        provenance: of the run.
        reading: how its images are read.
        initial: the model whose weights it starts from, or None.
    """

    request: Request
    provenance: Provenance
    reading: Reading
    initial: VAE | None

    @property
    def run(self) -> directory.Run:
        """The run as it is."""
        return self.provenance.run

    def as_configured(self, config: RunConfig, dataset: Dataset) -> Plan:
        """The plan to go on with the run at --output, which must be one of `config`."""
        then = self.run.config
        # the machine may have another memory than the one the run was started on
        window = then.data.shuffle_window
        classes = config.data.classes if then.data.classes else ()  # older runs did not keep them
        config = replace(config, data=replace(config.data, shuffle_window=window, classes=classes))
        same_limit = then.training.limit == config.training.limit
        if same_limit and self.provenance.is_asked_alike(dataset):
            self.provenance.require_unchanged(dataset)
        grown = _grown(self.run, config.training.epochs)
        if differences := grown.config.differences(config):
            raise UsageError(
                f"--output {self.run.path}: it holds a run with other settings"
                f" ({'; '.join(differences)})",
                "Name a new folder, give the same settings, or replace it with --force.",
            )
        _require_constant_schedule(self.run, grown)
        return self._plan(grown, dataset)

    def resumed(self, init_from: str | None) -> Plan:
        """The plan of --resume; what is given besides must agree with the run.

        Args:
            init_from: digest of the weights that --init-from names, or None.
        """
        request = self.request
        grown = _grown(self.run, request.settings.epochs or 0)
        name, options = self.provenance.whereabouts(request.data, request.settings)
        differing = [
            f"{option_name(field)}: the run has {as_text(mine)}, not {as_text(value)}"
            for field, mine, value in self._compared(grown, name, vars(options), init_from)
            if mine != value
        ]
        if differing:
            raise UsageError(
                f"--resume {self.run.path}: {'; '.join(differing)}",
                "Leave these options out, or start a new run.",
            )
        _require_constant_schedule(self.run, grown)
        dataset = catalogue.load(name, self.reading, options)
        dataset = dataset.limited(self.run.config.training.limit)
        self.provenance.require_unchanged(dataset)
        return self._plan(grown, dataset)

    def _compared(
        self, grown: directory.Run, name: str, options: dict[str, Any], init_from: str | None
    ) -> Iterator[tuple[str, object, object]]:
        """Each setting that was given: its name, what the run has, and what was given."""
        data, asked = self.run.config.data, self.request.data
        named = data.kind == "named" or name in catalogue.NAMES
        if named and asked not in (None, catalogue.AUTO):  # at another path the content must agree
            yield "data", data.name, asked
        origin = self.provenance.origin
        recorded = {**vars(grown.config.model), **vars(grown.config.training), **options}
        recorded |= {} if origin is None else vars(origin.options)
        for field, value in self.request.settings.given().items():
            yield field, recorded[field], value
        if init_from is not None:
            yield "init_from", recorded["init_from"], init_from

    def _plan(self, grown: directory.Run, dataset: Dataset) -> Plan:
        """The plan to go on with the run as `grown`: the run itself, or one of more epochs."""
        run, request = self.run, self.request
        precision.require(run.config.training.precision, torch.device(request.device))
        if grown is run and Checkpoints.of(run).finished and run.intact:
            return Plan(run.config, dataset, run.path, "finished")
        now, then = request.environment, run.config.environment
        differing = [
            f"{name} {then[name]} then, {now[name]} now"
            for name in CONDITIONS
            if name in then and then[name] != now[name]
        ]
        if differing:
            self.reading.report(
                f"{run.path} was started under other conditions ({'; '.join(differing)}): the last"
                " bits of its numbers may differ from those of an uninterrupted run"
            )
        return Plan(
            grown.config,
            dataset,
            run.path,
            "continued",
            grows=grown is not run,
            origin_recorded=self.provenance.is_recorded(dataset),
            initial=self.initial,
        )
