"""Numpy with one thread, for commands that run several pieces of work at once themselves."""

from __future__ import annotations

import os
import sys

_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def import_numpy() -> None:
    """Import numpy so that its matrix products take one thread; later libraries keep theirs.

    The products of a small network end sooner than a second thread wakes up, and its waiting costs
    ten times as much processor time as the product.  Does nothing where numpy is imported already.
    """
    if "numpy" in sys.modules:
        return
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, "1"))
    try:
        import numpy  # noqa: F401  (its library reads the variables once, when it is loaded)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
