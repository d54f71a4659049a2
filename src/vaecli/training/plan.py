"""A training request, and the plan made from it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vaecli._version import __version__
from vaecli.config import RunConfig
from vaecli.data.dataset import Dataset
from vaecli.errors import BusyError
from vaecli.model.vae import VAE
from vaecli.runs import directory
from vaecli.training.checkpoint import Checkpoints
from vaecli.training.settings import Settings


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

    @property
    def environment(self) -> dict[str, str | int]:
        """What a run records besides its configuration."""
        return {
            "vaecli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": self.device,
            "threads": self.threads or torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "processes": self.processes,
        }


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
        origin_recorded: whether `state/source.json` says already where the images are.
        initial: the model whose weights a new run starts from, or None.
    """

    config: RunConfig
    dataset: Dataset
    path: Path | None
    status: Literal["new", "continued", "finished"]
    replaces: bool = False
    grows: bool = False
    origin_recorded: bool = False
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
                        f"another process has just made a run in {path}",
                        "Give the same command again to continue that run.",
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
        if origin is not None and not self.origin_recorded:
            target.write_origin(origin.to_json())
