"""The run directory: where runs lie, what is in one, and how it becomes a model.

runs/001-mnist-mlp/
  config.json  model.safetensors  metrics.csv  README.md  *.png  state/
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vaecli import files, weights
from vaecli.checkpoint import Checkpoints
from vaecli.config import RunConfig, canonical_json, parse_json
from vaecli.errors import ModelError, UsageError
from vaecli.model import VAE

ROOT = Path("runs")
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.csv"
CARD = "README.md"
RECONSTRUCTIONS = "reconstructions.png"
SAMPLES = "samples.png"
CURVES = "curves.png"
STATE = "state"
LATEST = "latest"

_MAX_CONFIG_BYTES = 1 << 16
_NUMBERED = re.compile(r"(\d{3,9})-.+")


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv; losses in nats per image.

    `loss`, `distortion` and `rate` always mean the bound at beta = 1 with one noise sample;
    `objective` is what was optimised.  `seconds` is the wall time of the epoch with its test pass.
    """

    epoch: int
    objective: float
    train_loss: float
    train_distortion: float
    train_rate: float
    test_loss: float
    test_distortion: float
    test_rate: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A run directory and its configuration."""

    path: Path
    config: RunConfig

    def checkpoints(self) -> Checkpoints:
        """The state this run resumes from."""
        identity = {**self.config.to_json(), "environment": None}
        return Checkpoints(self.path / STATE, files.sha256(canonical_json(identity).encode()))

    @property
    def committed(self) -> bool:
        """Whether it holds weights."""
        return (self.path / WEIGHTS).is_file()

    @property
    def finished(self) -> bool:
        """Whether training has reached its end."""
        return self.checkpoints().finished

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against other writers; BusyError when one is at work."""
        files.make_folder(self.path / STATE)
        with files.lock(self.path / STATE / "lock", what=f"the run {self.path}"):
            files.remove_leftovers(self.path)
            yield

    def write_config(self) -> None:
        """Write config.json, in an order and form a person can read."""
        import json

        text = json.dumps(self.config.to_json(), indent=2) + "\n"
        files.atomic_write(self.path / CONFIG, text.encode())

    def write_weights(self, model: VAE) -> None:
        """Write model.safetensors."""
        data = weights.encode_model(model.config, model.state_dict())
        files.atomic_write(self.path / WEIGHTS, data)

    def write_metrics(self, rows: Sequence[EpochMetrics]) -> None:
        """Write metrics.csv, one row per epoch."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(EpochMetrics))
        for row in rows:
            epoch, *losses, images_per_second, seconds = astuple(row)
            numbers = [f"{loss:.6f}" for loss in losses]
            writer.writerow([epoch, *numbers, f"{images_per_second:.0f}", f"{seconds:.3f}"])
        files.atomic_write(self.path / METRICS, text.getvalue().encode())

    def write(self, name: str, data: bytes) -> None:
        """Write another file of the run, such as a picture."""
        files.atomic_write(self.path / name, data)

    def clear(self) -> None:
        """Remove what vaecli wrote here, and nothing else."""
        state = self.path / STATE
        for path in [*state.glob("*"), *(self.path / name for name in _OWN_FILES)]:
            if path.is_file() and path.name != "lock":
                files.remove(path)


_OWN_FILES = (CONFIG, WEIGHTS, METRICS, CARD, RECONSTRUCTIONS, SAMPLES, CURVES)


def open_run(path: Path) -> Run:
    """Read a run directory's configuration.

    Raises:
        ModelError: there is no such run, or its config.json is damaged.
    """
    config = path / CONFIG
    try:
        return Run(
            path, RunConfig.from_json(parse_json(files.read_capped(config, _MAX_CONFIG_BYTES)))
        )
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"no run at {path}: it has no {CONFIG}",
            "Make one with `vaecli train`, or name another with -m.",
        ) from None
    except ValueError as error:
        raise ModelError(
            f"{config}: {error}", "Restore the file, or load the weights file by itself."
        ) from None


def is_run(path: Path) -> bool:
    """Whether `path` holds something that vaecli may have written as a run."""
    return (path / CONFIG).is_file() and ((path / STATE).is_dir() or (path / WEIGHTS).is_file())


def is_free(path: Path) -> bool:
    """Whether a run can be made at `path`: it is absent, or an empty folder."""
    if not path.exists():
        return not path.is_symlink()
    if not path.is_dir():
        raise UsageError(f"--output {path}: it is a file", "Name a folder.")
    return all(_is_leftover(entry) for entry in path.iterdir())


def _is_leftover(path: Path) -> bool:
    """Whether a run that died before its config.json was written may have left this."""
    if path.name == STATE and path.is_dir():
        return all(entry.name in ("lock", "holder") for entry in path.iterdir())
    return path.name.startswith(files.TEMPORARY_PREFIX)


def allocate(data: str, arch: str, root: Path = ROOT) -> Path:
    """Create the next numbered run directory, `runs/NNN-DATA-ARCH`."""
    number = max((int(run.name.split("-")[0]) for run in numbered(root)), default=0)
    while True:
        number += 1
        path = root / f"{number:03d}-{data}-{arch}"
        # another process may take the number under a different name
        if not any(root.glob(f"{number:03d}-*")) and files.claim_folder(path):
            return path


def numbered(root: Path = ROOT) -> list[Path]:
    """The numbered folders under `root`, highest number first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _NUMBERED.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (int(path.name.split("-")[0]), path.name), reverse=True)


def latest(root: Path = ROOT) -> Path:
    """The highest numbered run with committed weights.

    Raises:
        ModelError: there is none.
    """
    for path in numbered(root):
        if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
            return path
    raise ModelError(
        f"no trained model under {root}/",
        "Train one with `vaecli train`, or name one with -m.",
    )


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and where it came from.

    Attributes:
        model: on the CPU.
        path: the run directory or the weights file.
        run: the run, or None for a loose weights file.
    """

    model: VAE
    path: Path
    run: Run | None

    def seed(self, given: int | None) -> int:
        """The seed to draw with: the one given, else the run's own, else 0."""
        if given is not None:
            return given
        return 0 if self.run is None else self.run.config.training.seed


def load_model(spec: str) -> LoadedModel:
    """Turn a run directory, a weights file or `latest` into a model.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    path = latest() if spec == LATEST else Path(spec)
    if not path.exists():
        raise ModelError(
            f"no model at {path}", "Train one with `vaecli train`, or name another with -m."
        )
    if not path.is_dir():
        return LoadedModel(weights.read_model(path), path, None)
    run = open_run(path)
    if not run.committed:
        raise ModelError(
            f"the run {path} has no weights yet",
            f"Continue it with `vaecli train --resume {path}`.",
        )
    model = weights.read_model(path / WEIGHTS)
    if model.config != run.config.model:
        raise ModelError(
            f"{path}: {CONFIG} and {WEIGHTS} describe different models",
            f"Load {path / WEIGHTS} by itself if you trust it.",
        )
    return LoadedModel(model, path, run)
