"""What one process of a group runs in test_processes.py: trains blobs, keeps its weights."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from test_training import DATASET, images, make_run
from vaecli.data.dataset import Dataset
from vaecli.errors import DataError
from vaecli.runs.directory import Run
from vaecli.system import processes
from vaecli.training import loop
from vaecli.training.events import Finished, Started

CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "double": (torch.float64, {"epochs": 3}),
    "single": (torch.float32, {"epochs": 3}),
    # four images in a last batch of three processes' steps, several passes a step
    "several": (torch.float64, {"epochs": 2, "importance_samples": 3, "batch_size": 33}),
    "grid": (torch.float64, {"epochs": 1, "arch": "grid"}),
    "labels": (torch.float64, {"epochs": 2, "condition": "labels"}),
    "empty": (torch.float64, {"epochs": 1, "batch_size": 23}),  # 70 = 3 x 23 + 1
}
OWN = torch.Generator().manual_seed(1)
LARGER = Dataset("larger", images(38, 16, OWN), images(9, 16, OWN))
"""For a grid, which needs a side of 16; the same whatever other modules drew before."""


def train(folder: Path, group: processes.Processes) -> None:
    """Train every case into its own run under `folder`."""
    for name, (dtype, settings) in CASES.items():
        path, dataset = folder / name, LARGER if name == "grid" else DATASET
        if group.first:
            make_run(path, dataset, **settings)
        config = make_run(folder / f"config-{name}-{group.rank}", dataset, **settings).config
        run = Run(path, config)
        events = loop.train(run, dataset, processes=group, dtype=dtype)
        for event in events:
            if isinstance(event, Finished) and group.first:
                rows = [[row.train_loss, row.test_loss] for row in event.metrics]
            if isinstance(event, Started):
                model = event.model
        kept = {key: value.clone() for key, value in model.state_dict().items()}
        if group.first:
            kept["losses"] = torch.tensor(rows, dtype=torch.float64)
        save_file(kept, folder / f"{name}-{group.rank}.safetensors")


def share_an_error(folder: Path, group: processes.Processes) -> None:
    """Keep what this process hears of an error that only the second one meets."""
    heard = None
    try:
        with group.agreed():
            if group.rank == 1:
                raise DataError("there: damaged", "Repair it.")
    except DataError as error:
        heard = [error.message, error.hint]
    (folder / f"error-{group.rank}.json").write_text(json.dumps(heard))


if __name__ == "__main__":
    group = processes.join(torch.device("cpu"))
    with group.together():
        train(Path(sys.argv[1]), group)
        share_an_error(Path(sys.argv[1]), group)
    os._exit(0)  # as cli.main leaves
