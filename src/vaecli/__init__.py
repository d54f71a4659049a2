"""Train, judge and ship variational autoencoders.

`vaecli.load(run)` gives a model with `encode`, `decode`, `reconstruct` and `sample`;
`vaecli.train(...)` yields the events of a training.  Both are imported when first asked for.
"""

from typing import TYPE_CHECKING, Any

from vaecli._version import __version__

if TYPE_CHECKING:
    from vaecli.api import Model, load, train

__all__ = ["Model", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Model", "load", "train"):
        from vaecli import api

        return getattr(api, name)
    raise AttributeError(f"module 'vaecli' has no attribute {name!r}")
