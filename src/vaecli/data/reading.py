"""How data sets are read: where they are kept, the network, memory, messages."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from vaecli.system import files
from vaecli.system.callbacks import Progress, Report, no_progress, no_report

_MEMORY_SHARE = 0.5  # of what this process may use, for the images


@dataclass(frozen=True)
class Reading:
    """How data sets are read, whichever is asked for.

    Attributes:
        data_dir: where named sets and prepared images are kept; None for the user's cache folder.
        download: whether the network may be used.
        report: called with messages for the user, such as a fallback.
        progress: called with (description, done, total) during long work.
        memory: bytes of the user's own images held in memory, larger sets are read from the disk
            while training; None for half the machine's.
        checked: whether another process of this machine has just verified the prepared images.
    """

    data_dir: Path | None = None
    download: bool = True
    report: Report = no_report
    progress: Progress = no_progress
    memory: int | None = None
    checked: bool = False

    @property
    def folder(self) -> Path:
        """Where named sets and prepared images are kept."""
        return self.data_dir or Path(platformdirs.user_cache_dir("vaecli"))

    @property
    def memory_limit(self) -> int:
        """Bytes of the user's own images held in memory."""
        return memory_for_images() if self.memory is None else self.memory


def memory_for_images() -> int:
    """Half the memory that this process may use, in bytes."""
    available = math.inf
    with contextlib.suppress(OSError, ValueError, AttributeError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # the limit of a container
        limit = files.read_capped(Path("/sys/fs/cgroup/memory.max"), 100)
        available = min(available, int(limit))
    return int(_MEMORY_SHARE * available) if available < math.inf else 4 * 1024**3
