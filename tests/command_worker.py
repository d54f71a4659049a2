"""What one process of a group runs in test_processes.py: a command, counted and impatient."""

from __future__ import annotations

import functools
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecli.cli import app
from vaecli.data import reading
from vaecli.data.mapped import _Stretch
from vaecli.data.own import prepare
from vaecli.system import processes, torchrun


def main(folder: Path, seconds: float, arguments: list[str]) -> int:
    """Run a command line; what it read and prepared goes to a file in `folder`.

    Args:
        folder: where the counts go.
        seconds: how long to wait for the other processes.
        arguments: the command line.
    """
    seen = {"prepared": 0, "read": 0}
    make, read = prepare._make, _Stretch.read

    def counted_make(*of: Any) -> None:
        seen["prepared"] += 1
        make(*of)

    def counted_read(stretch: _Stretch, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        seen["read"] += len(places)
        return read(stretch, places)

    impatient = functools.partial(processes.join, timeout=timedelta(seconds=seconds))
    for owner, name, instead in (
        (prepare, "_make", counted_make),
        (_Stretch, "read", counted_read),
        (reading, "memory_for_images", lambda: 0),  # so that all images are mapped
        (processes, "join", impatient),
    ):
        setattr(owner, name, instead)
    status = app.run(arguments)
    (folder / f"{torchrun.rank()}.json").write_text(json.dumps(seen))
    return status


if __name__ == "__main__":
    # as cli.main leaves
    os._exit(main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
