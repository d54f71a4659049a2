"""The one place that turns what -m names into a model: a run, a weights file, a Hub address."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vaecli.config import Binarize, ModelConfig
from vaecli.data import labels
from vaecli.errors import ModelError, UsageError
from vaecli.model import one_class
from vaecli.runs import weights
from vaecli.runs.directory import CONFIG, WEIGHTS, Run, latest, open_run
from vaecli.system import hub, shell

if TYPE_CHECKING:
    from vaecli.model.vae import VAE

LATEST = "latest"
BUNDLED = "digits"
"""Name of the model that comes with vaecli, and of the set it was trained on."""
ENCODER = "encoder."
"""What the names of the encoder's weights begin with."""
BUNDLED_FILE = Path(__file__).with_name("digits.safetensors")
"""Made by benchmarks/bundled_model.py."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, and the place it was loaded from.

    Attributes:
        config: of the model.
        weights: its parameters by name, float32; perhaps without the encoder's.
        path: the run directory or the weights file.
        run: the run, or None for a loose weights file.
        name: used in messages and in the names of output files.
        data: name of the set it was trained on, where there is no run to say.
        label: the class it was asked to be the model for, where it takes classes.
    """

    config: ModelConfig
    weights: weights.Arrays
    path: Path
    run: Run | None
    name: str
    data: str | None = None
    label: str | None = None

    @functools.cached_property
    def model(self) -> VAE:
        """The model in torch, on the CPU and in evaluation mode."""
        from vaecli.model.vae import with_weights

        return with_weights(self.config, self.weights)

    def whole(self) -> LoadedModel:
        """With all weights, read again where those of the encoder were left out."""
        if any(name.startswith(ENCODER) for name in self.weights):
            return self
        config, tensors = weights.read_model(self._file)
        return replace(self, config=config, weights=tensors)

    @property
    def _file(self) -> Path:
        return self.path if self.run is None else self.path / WEIGHTS

    def of_class(self, name: str | None, purpose: str) -> LoadedModel:
        """The model for the class that --label names; as it is, where it takes no classes.

        Args:
            name: of the class, or its number; None where --label is not given.
            purpose: what needs one class.

        Raises:
            UsageError: the model needs a class and none is given, or it does not have this one.
        """
        if name is None and not self.config.classes:
            return self
        if name is None:
            raise UsageError(
                f"{purpose}: {self.path} was trained with --condition labels and needs a class",
                f"Name one with --label: {labels.listed(self.config.classes)}.",
            )
        place = labels.place(self.config, name)
        config, weights = one_class.of_class(self.config, self.weights, place)
        return replace(self, config=config, weights=weights, label=self.config.classes[place])

    @property
    def binarize(self) -> Binarize:
        """The binarization used in training, or "none" if unknown."""
        return "none" if self.run is None else self.run.config.training.binarize

    def seed(self, given: int | None) -> int:
        """The seed for draws: `given` if not None, else the run's own, else 0."""
        if given is not None:
            return given
        return 0 if self.run is None else self.run.config.training.seed


def load_model(spec: str, *, download: bool = True, decoder_only: bool = False) -> LoadedModel:
    """Turn a run directory, a weights file, `latest`, `digits` or `hf://OWNER/NAME` into a model.

    Args:
        spec: one of these.
        download: whether the network may be used.
        decoder_only: check the encoder's weights, but do not keep them.

    Raises:
        ModelError: there is none, or it is damaged.
        EnvironmentFailure: it lies on the Hub, and cannot be had from there.
    """
    without = ENCODER if decoder_only else None
    if spec == BUNDLED:
        found = weights.read_model(BUNDLED_FILE, without=without)
        return LoadedModel(*found, BUNDLED_FILE, None, BUNDLED, BUNDLED)
    if spec.startswith(hub.SCHEME):
        from vaecli.runs.hub import fetch

        path, name = fetch(spec, download=download)
    else:
        path = latest() if spec == LATEST else Path(spec)
        name = path.resolve().name.removesuffix(".safetensors")
    if not path.exists():
        raise ModelError(
            f"no model at {path}",
            "Train one with `vaecli train`, or name another with -m; -m digits comes with vaecli.",
        )
    if not path.is_dir():
        return LoadedModel(*weights.read_model(path, without=without), path, None, name)
    run = open_run(path)
    if not run.committed:
        command = shell.join(["vaecli", "train", "--resume", str(path)])
        raise ModelError(f"the run {path} has no weights yet", f"Continue it with `{command}`.")
    config, tensors = weights.read_model(path / WEIGHTS, without=without)
    if config != run.config.model:
        raise ModelError(
            f"{path}: {CONFIG} and {WEIGHTS} describe different models",
            f"Load {path / WEIGHTS} by itself if you trust it.",
        )
    return LoadedModel(config, tensors, path, run, name)
