"""The environment variables that torchrun sets; imports nothing heavy."""

from __future__ import annotations

import os

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return all(os.environ.get(name) for name in VARIABLES)


def rank() -> int:
    """The number of this process in its group; 0 for a process alone."""
    return int(os.environ["RANK"]) if by_torchrun() else 0


def local_rank() -> int:
    """The number of this process on its machine; 0 for a process alone."""
    return int(os.environ["LOCAL_RANK"]) if by_torchrun() else 0


def count() -> int:
    """Number of processes that train together."""
    return int(os.environ["WORLD_SIZE"]) if by_torchrun() else 1


def restarts() -> int:
    """How often torchrun has restarted the group, as counted on this machine."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if by_torchrun() else 0


def several_machines() -> bool:
    """Whether the group spans several machines."""
    return by_torchrun() and os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
