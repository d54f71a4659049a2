"""The experiment trackers by name; imports none of them."""

from __future__ import annotations

from collections.abc import Iterable

from vaecli.errors import UsageError
from vaecli.system import extras

CLASSES = {
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "wandb": "Wandb",
    "trackio": "Trackio",
}
"""The class of each, in the module of its name."""


def require(names: Iterable[str]) -> tuple[str, ...]:
    """These trackers, each once.

    Raises:
        UsageError: no tracker is called so.
        EnvironmentFailure: one is not installed.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in CLASSES:
            known = ", ".join(CLASSES)
            raise UsageError(f"--track {name}: no such tracker", f"Known are {known}.")
        extras.require(name, f"--track {name}")
    return wanted
