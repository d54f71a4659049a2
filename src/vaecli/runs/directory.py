"""The run directory: its files, run numbers, and `latest`.

runs/001-mnist-mlp/
  config.json  model.safetensors  metrics.csv  README.md  *.png  state/
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaecli.config import CONFIG_KEYS, ModelConfig, RunConfig
from vaecli.errors import ModelError, UsageError
from vaecli.runs import weights
from vaecli.system import files, locks
from vaecli.system.size_limits import MAX_METRICS_BYTES, MAX_ORIGIN_BYTES, MAX_RUN_CONFIG_BYTES
from vaecli.system.strict_json import canonical_json, parse_json

if TYPE_CHECKING:
    from vaecli.runs.metrics import EpochMetrics

ROOT = Path("runs")
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.csv"
CARD = "README.md"
RECONSTRUCTIONS = "reconstructions.png"
SAMPLES = "samples.png"
CURVES = "curves.png"
LATENTS = "latents.png"
FITTED_PRIOR = "prior-gmm.safetensors"
"""Of `--prior gmm`; not in every run, and nothing that resuming needs; see fitted_prior.py."""
FLOW_PRIOR = "prior-flow-matching.safetensors"
"""Of `--prior flow-matching`, likewise; see flow_prior.py."""
HELD_OUT = "held-out.safetensors"
"""What alerts and heat maps compare with; see held_out.py."""
STATE = "state"
MANIFEST = "manifest.json"
GENERATIONS = "generation-*.safetensors"
"""In `state`, with the manifest: what training resumes from; see training/checkpoint.py."""
ORIGIN = "source.json"
"""In `state`, too: where the images of a run lie, when they are the user's own."""
TRACKING = "tracking-id"
"""In `state`, too: the id by which experiment trackers know the run."""
_NUMBERED = re.compile(r"(\d{3,9})-.+")


@dataclass(frozen=True)
class Run:
    """A run directory and its configuration."""

    path: Path
    config: RunConfig

    @property
    def committed(self) -> bool:
        """Whether it holds weights."""
        return (self.path / WEIGHTS).is_file()

    @property
    def has_state(self) -> bool:
        """Whether it can be locked, and training resumed; what is downloaded cannot."""
        return (self.path / STATE).is_dir()

    @property
    def intact(self) -> bool:
        """Whether all its files exist and its weights are undamaged."""
        if not all((self.path / name).is_file() for name in OWN_FILES):
            return False
        try:
            weights.read_model(self.path / WEIGHTS)
        except (ModelError, OSError):
            return False
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run; BusyError if another process holds it."""
        files.make_folder(self.path / STATE)
        with locks.hold(self.path / STATE / locks.LOCK_FILES[0], what=f"the run {self.path}"):
            files.remove_leftovers(self.path)
            yield

    def write_config(self) -> None:
        """Write config.json, indented."""
        text = json.dumps(self.config.to_json(), indent=2) + "\n"
        files.atomic_write(self.path / CONFIG, text.encode())

    def write_weights(self, config: ModelConfig, tensors: weights.Arrays) -> None:
        """Write model.safetensors."""
        data = weights.encode_model(config, tensors)
        files.atomic_write(self.path / WEIGHTS, data)

    def write_metrics(self, rows: Sequence[EpochMetrics]) -> None:
        """Write metrics.csv, one row per epoch."""
        from vaecli.runs import metrics

        files.atomic_write(self.path / METRICS, metrics.encode(rows))

    def read_metrics(self) -> list[EpochMetrics]:
        """The rows of metrics.csv; none when there is no such file.

        Raises:
            ModelError: it is not one that `write_metrics` writes.
        """
        from vaecli.runs import metrics

        path = self.path / METRICS
        try:
            return metrics.decode(files.read_capped(path, MAX_METRICS_BYTES))
        except FileNotFoundError:
            return []
        except ValueError as error:
            hint = "Restore the file, or remove it."
            raise ModelError(f"{path}: damaged: {error}", hint) from None

    def write(self, name: str, data: bytes) -> None:
        """Write another file of the run, such as a picture."""
        files.atomic_write(self.path / name, data)

    def write_origin(self, content: dict[str, Any]) -> None:
        """Keep where the images lie; apart from config.json, which tells nothing of the machine."""
        files.atomic_write(self.path / STATE / ORIGIN, canonical_json(content).encode())

    def read_origin(self) -> Any:
        """What `write_origin` kept, or None.

        Raises:
            ModelError: it is damaged.
        """
        path = self.path / STATE / ORIGIN
        try:
            return parse_json(files.read_capped(path, MAX_ORIGIN_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ModelError(f"{path}: {error}", "Name the images with --data.") from None

    def tracking_id(self) -> str:
        """The id by which experiment trackers know this run; made when first asked for."""
        path = self.path / STATE / TRACKING
        with contextlib.suppress(OSError, ValueError):
            if re.fullmatch("[0-9a-f]{16}", found := files.read_capped(path, 64).decode()):
                return found
        made = os.urandom(8).hex()
        files.atomic_write(path, made.encode())
        return made

    def clear(self) -> None:
        """Remove what vaecli wrote here, and nothing else.

        The manifest goes first, so that what is left is no state; config.json stays, so that
        what is left is still a run, until another is written in its place.
        """
        state = self.path / STATE
        derived = [self.path / name for name in OWN_FILES if name != CONFIG]
        own = (*state.glob(GENERATIONS), state / ORIGIN, state / TRACKING)
        priors = (self.path / FITTED_PRIOR, self.path / FLOW_PRIOR)
        for path in [state / MANIFEST, *derived, *own, *priors]:
            if path.is_file():
                files.remove(path)
        files.sync_folder(state)


OWN_FILES = (
    *(CONFIG, WEIGHTS, METRICS, CARD, RECONSTRUCTIONS, SAMPLES, CURVES, LATENTS, HELD_OUT),
)


def open_run(path: Path) -> Run:
    """Read a run directory's configuration.

    Raises:
        ModelError: there is no such run, or its config.json is damaged.
    """
    config = path / CONFIG
    try:
        return Run(
            path, RunConfig.from_json(parse_json(files.read_capped(config, MAX_RUN_CONFIG_BYTES)))
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
    """Whether vaecli wrote what is at `path`: its config.json says so, or else its manifest."""
    marks = (
        (path / CONFIG, CONFIG_KEYS),
        (path / STATE / MANIFEST, frozenset({"format", "run", "generations"})),
    )
    return any(_has_keys(file, keys) for file, keys in marks)


def _has_keys(path: Path, keys: frozenset[str]) -> bool:
    try:
        content = parse_json(files.read_capped(path, MAX_RUN_CONFIG_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= keys


def is_free(path: Path) -> bool:
    """Whether a run can be made at `path`: it is absent, or an empty folder."""
    if not path.exists():
        return not path.is_symlink()
    if not path.is_dir():
        raise UsageError(f"--output {path}: it is a file", "Name a folder.")
    return all(_is_leftover(entry) for entry in path.iterdir())


def _is_leftover(path: Path, *others: str) -> bool:
    """Whether a run that died before its config.json was written may have left this."""
    if path.name == STATE and path.is_dir():
        return all(_is_leftover(entry, ORIGIN) for entry in path.iterdir())
    return path.name in (*locks.LOCK_FILES, *others) or path.name.startswith(files.TEMPORARY_PREFIX)


def allocate(data: str, arch: str, root: Path = ROOT) -> Path:
    """Create the next numbered run directory, `runs/NNN-DATA-ARCH`.

    No two processes get one number, whatever their names: each makes its folder before it looks
    for others of that number, so at least one of two sees the other and goes on to the next.
    """
    number = max((int(run.name.split("-")[0]) for run in numbered(root)), default=0)
    while True:
        number += 1
        path = root / f"{number:03d}-{data}-{arch}"
        if files.claim_folder(path):
            if list(root.glob(f"{number:03d}-*")) == [path]:
                return path
            files.release_folder(path)


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
        "Train one with `vaecli train`, or name one with -m; -m digits comes with vaecli.",
    )
