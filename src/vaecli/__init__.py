"""Train, judge and ship variational autoencoders.

`vaecli.train(...)` yields the events of a training; `vaecli.load(run)` gives a model with `encode`,
`decode`, `reconstruct`, `sample`, `evaluate`, `score` and `export`.  Both are imported when first
asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vaecli._version import __version__

if TYPE_CHECKING:
    from vaecli.api.model import Model, load
    from vaecli.api.train import train

__all__ = ["Model", "__version__", "load", "train"]
_HOMES = {"Model": "model", "load": "model", "train": "train"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"vaecli.api.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vaecli' has no attribute {name!r}")
