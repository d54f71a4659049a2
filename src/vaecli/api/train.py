"""`vaecli.train`: the events of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vaecli.data.reading import Reading
from vaecli.errors import UsageError
from vaecli.system import device as devices
from vaecli.tracking import names
from vaecli.tracking.follow import follow
from vaecli.training import loop, planning
from vaecli.training.events import Event, Notice
from vaecli.training.plan import Request
from vaecli.training.settings import Settings


def train(
    data: str = "auto",
    *,
    output: str | Path | None = None,
    init_from: str | Path | None = None,
    data_dir: str | Path | None = None,
    download: bool = True,
    force: bool = False,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    track: Sequence[str] = (),
    **settings: Any,
) -> Iterator[Event]:
    """Train as `vaecli train` does, and yield the events of `vaecli.training.events`.

    An unfinished run of the same settings at `output` is continued; a finished one yields
    `Finished` at once.

    Args:
        data: a data set's name, or the path of a folder of images or of an array file.
        output: the run directory; the next number under `runs/` for None.
        init_from: a run or weights file whose weights to start from.
        data_dir: where named sets and prepared images are kept.
        download: whether the network may be used.
        force: replace a run of other settings at `output`.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: float64 to compute in it; the weights file holds float32 all the same.
        track: experiment trackers to log to: tensorboard, mlflow, wandb, trackio.
        **settings: the options of `vaecli train`, such as `epochs` or `latent_dim`: the fields of
            `training.settings.Settings`.

    Raises:
        VaecliError: as the command would; nothing is raised before the first event is asked for.

    Example:
        >>> import numpy as np
        >>> np.save("images.npy", np.zeros((100, 8, 8), np.uint8) + np.uint8(128))
        >>> *_, finished, drawn = train("images.npy", output="runs/mine", epochs=2, hidden=(8,))
        >>> finished.epoch, len(finished.metrics), drawn.files[0].name
        (2, 2, 'reconstructions.png')
    """
    tracks = names.require(track)
    notices: list[str] = []
    where = devices.resolve(device, notices.append)
    if dtype == torch.float64 and not devices.has_float64(where):
        raise UsageError(f"dtype float64: {where} does not support it", "Train on the CPU.")
    request = Request(
        data=data,
        settings=Settings.from_names(settings),
        output=None if output is None else Path(output),
        init_from=None if init_from is None else str(init_from),
        force=force,
        device=where.type,
    )
    folder = None if data_dir is None else Path(data_dir)
    plan = planning.plan(request, Reading(folder, download, notices.append))
    yield from map(Notice, notices + plan.dataset.account.warnings)
    with plan.opened() as run:
        events = loop.train(run, plan.dataset, device=where, initial=plan.initial, dtype=dtype)
        yield from follow(events, run, tracks)
