"""The one place that turns a run, a weights file, `latest` or a Hub address into a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vaecli.errors import ModelError
from vaecli.model.vae import VAE
from vaecli.runs import hub, weights
from vaecli.runs.directory import CONFIG, WEIGHTS, Run, latest, open_run
from vaecli.system import shell

LATEST = "latest"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and the place it was loaded from.

    Attributes:
        model: on the CPU.
        path: the run directory or the weights file.
        run: the run, or None for a loose weights file.
        name: used in messages and in the names of output files.
    """

    model: VAE
    path: Path
    run: Run | None
    name: str

    def seed(self, given: int | None) -> int:
        """The seed for draws: `given` if not None, else the run's own, else 0."""
        if given is not None:
            return given
        return 0 if self.run is None else self.run.config.training.seed


def load_model(spec: str, *, download: bool = True) -> LoadedModel:
    """Turn a run directory, a weights file, `latest` or `hf://OWNER/NAME` into a model.

    Raises:
        ModelError: there is none, or it is damaged.
        EnvironmentFailure: it lies on the Hub, and cannot be had from there.
    """
    if spec.startswith(hub.SCHEME):
        path, name = hub.fetch(spec, download=download)
    else:
        path = latest() if spec == LATEST else Path(spec)
        name = path.resolve().name.removesuffix(".safetensors")
    if not path.exists():
        raise ModelError(
            f"no model at {path}", "Train one with `vaecli train`, or name another with -m."
        )
    if not path.is_dir():
        return LoadedModel(weights.read_model(path), path, None, name)
    run = open_run(path)
    if not run.committed:
        command = shell.join(["vaecli", "train", "--resume", str(path)])
        raise ModelError(f"the run {path} has no weights yet", f"Continue it with `{command}`.")
    model = weights.read_model(path / WEIGHTS)
    if model.config != run.config.model:
        raise ModelError(
            f"{path}: {CONFIG} and {WEIGHTS} describe different models",
            f"Load {path / WEIGHTS} by itself if you trust it.",
        )
    return LoadedModel(model, path, run, name)
