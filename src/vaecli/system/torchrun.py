"""How torchrun started this process, as its environment says; imports nothing heavy."""

from __future__ import annotations

import os

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def by_torchrun() -> bool:
    """Whether this process is one of a group."""
    return all(os.environ.get(name) for name in VARIABLES)


def rank() -> int:
    """The number of this process in its group; 0 for a process alone."""
    return int(os.environ["RANK"]) if by_torchrun() else 0


def local_rank() -> int:
    """The number of this process on its machine; 0 for a process alone."""
    return int(os.environ["LOCAL_RANK"]) if by_torchrun() else 0


def count() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if by_torchrun() else 1


def restarts() -> int:
    """How often torchrun has started the group again, as this machine has counted."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if by_torchrun() else 0


def several_machines() -> bool:
    """Whether torchrun runs on more than one."""
    return by_torchrun() and os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
