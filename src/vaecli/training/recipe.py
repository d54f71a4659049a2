"""Defaults that depend on the architecture or on the images."""

from __future__ import annotations

from typing import Any

from vaecli.config import Arch, Likelihood

RECIPES: dict[Arch, dict[str, Any]] = {
    "mlp": {},
    "conv": {"lr": 2e-3},
    "grid": {"lr": 2e-2, "batch_size": 32},
}
"""Fields of TrainConfig whose tuned defaults are others for an architecture."""
COLOUR_LIKELIHOODS: dict[Arch, Likelihood] = {
    "mlp": "logistic",
    "conv": "logistic-mixture",
    "grid": "logistic-mixture",
}
"""Likelihood of colour images where none is given; an mlp would need 20 outputs per pixel for the
mixture."""
SMALL_SET_STEPS = 1000
"""Steps that a small set of own images is trained for, where no number of epochs is given."""
