"""The mixture that `--prior gmm` fits, kept in its run as `prior-gmm.safetensors`.

Its header says which weights it was fitted to, and how; with others it counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vaecli.config import ModelConfig
from vaecli.errors import ModelError, UsageError
from vaecli.model.numpy_prior import Mixture
from vaecli.runs import weights
from vaecli.runs.directory import FITTED_PRIOR, Run
from vaecli.system.size_limits import MAX_COMPONENTS

DENSITIES = "normal", "gmm"
"""Priors in place of the model's own by which images can be judged."""
DRAWN = *DENSITIES, "flow-matching"
"""Those that can be drawn from."""
MAX_COVARIANCE = 6000
"""A covariance of more latents takes too much memory and time."""

MAX_POSITIONS = 1 << 12
"""Latents at more positions than this take too long to fit by flow matching: images of 256x256."""

_REMEDY = "Remove the file, and it is fitted again."


class FittedPrior(NamedTuple):
    """A mixture, and what it was fitted to.

    Attributes:
        mixture: the prior.
        fitted: latents of training images that it was fitted to.
        held_out: others, by which it was chosen among several.
    """

    mixture: Mixture
    fitted: int
    held_out: int


def require_replaceable(
    model: ModelConfig, prior: str | None, choices: Sequence[str] = DENSITIES
) -> None:
    """UsageError where a prior is given for a model that has learned one, or none of `choices`."""
    if prior not in (None, *choices):
        raise UsageError(f"--prior {prior}: not one of {', '.join(choices)}")
    if prior is not None and model.prior != "normal":
        raise UsageError(
            f"--prior {prior}: this model has learned a prior of its own, a {model.prior}",
            "Leave it out.",
        )


def fittable(model: ModelConfig) -> list[str]:
    """The values of --prior that can be fitted to the latents of a model."""
    within = {
        "gmm": model.latents <= MAX_COVARIANCE,
        "flow-matching": positions(model) <= MAX_POSITIONS,
    }
    return [name for name, possible in within.items() if possible]


def positions(model: ModelConfig) -> int:
    """Positions of the finest latents: of a grid's finest level, or one."""
    return math.prod(model.levels[1]) if model.arch == "grid" else 1


def read(run: Run, model: weights.Arrays) -> FittedPrior | None:
    """The mixture kept in a run, or None where none of these weights is.

    Args:
        run: the run.
        model: its weights.

    Raises:
        ModelError: the file is not as `write` makes it.
    """
    path = run.path / FITTED_PRIOR
    if not path.exists():
        return None
    with weights.open_weights(path) as file:
        try:
            header = weights.read_header(file)
            info = header.info
            if info.get("prior") != Mixture.name:
                raise ValueError("it is no mixture that vaecli fitted")
            count, latents, fitted, held_out = (
                _number(info, name) for name in ("components", "latents", "fitted", "held_out")
            )
            if not (1 <= count <= MAX_COMPONENTS and latents == run.config.model.latents):
                raise ValueError(
                    f"it has {count:,} components of {latents:,} latents; at most"
                    f" {MAX_COMPONENTS:,} of {run.config.model.latents:,} are read"
                )
            if info.get("model") != weights.digest(model):
                return None
            expected = {
                "weights": ("float64", (count,)),
                "means": ("float64", (count, latents)),
                "factors": ("float64", (count, latents, latents)),
            }
            mixture = Mixture(**weights.read_tensors(file, header, expected))
            _check(mixture)
        except ValueError as error:
            raise ModelError(f"{path}: {error}", _REMEDY) from None
    return FittedPrior(mixture, fitted, held_out)


def write(run: Run, model: weights.Arrays, prior: FittedPrior) -> None:
    """Keep a mixture fitted to the latents of these weights, under the run's lock.

    Raises:
        BusyError: another process uses the run.
        OSError: the run cannot be written to.
    """
    mixture = prior.mixture
    count, latents = mixture.means.shape
    info = {
        "prior": mixture.name,
        "model": weights.digest(model),
        "components": count,
        "latents": latents,
        "fitted": prior.fitted,
        "held_out": prior.held_out,
    }
    tensors = {name: getattr(mixture, name) for name in ("weights", "means", "factors")}
    with run.locked():
        run.write(FITTED_PRIOR, weights.encode(tensors, info))


def _number(info: dict[str, Any], name: str) -> int:
    number = info.get(name)
    if type(number) is not int:
        raise ValueError(f"{name} is no whole number in its header")
    return number


def _check(mixture: Mixture) -> None:
    """ValueError unless its numbers are those of a mixture."""
    diagonals = np.diagonal(mixture.factors, axis1=1, axis2=2)
    if (mixture.weights <= 0).any() or abs(mixture.weights.sum() - 1) > 1e-6:
        raise ValueError("its weights are not positive, or do not add up to 1")
    if (diagonals <= 0).any() or np.triu(mixture.factors, 1).any():
        raise ValueError("its factors are not lower triangular with a positive diagonal")
