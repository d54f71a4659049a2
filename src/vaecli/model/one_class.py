"""A model with `--condition labels` at one of its classes: an ordinary model.

What a class adds to the output of a layer goes into its bias, and the shift and scale of p(z|class)
into the first layer of the decoder.  Numpy, the page and all commands that are given a class run
that model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vaecli.config import ModelConfig
from vaecli.model.numpy_prior import quiet
from vaecli.model.operations import CLASS_ROWS

Floats = NDArray[np.float32]
FIRST = "decoder.hidden.0"
"""The layer that the latents enter, unless it is a grid."""


@quiet()
def of_class(
    config: ModelConfig, weights: Mapping[str, Floats], place: int
) -> tuple[ModelConfig, dict[str, Floats]]:
    """Configuration and weights of the model for one class.

    With the row t of each layer, and p(z|y) = N(m, diag(s^2)), the first layer of the decoder is::

        W (m + s z) + b + t = (W s) z + (W m + b + t)

    Args:
        config: of a model that takes classes.
        weights: its parameters by name.
        place: the class, by its place among those of the configuration.
    """
    given = dict(weights)
    for name in weights:
        layer, _, kind = name.rpartition(".")
        if kind == CLASS_ROWS:
            constant = f"{layer}.bias" if f"{layer}.bias" in weights else f"{layer}.value"
            given[constant] = given[constant] + given.pop(name)[place]
    if "decoder.class_mean" in given:
        mean = given.pop("decoder.class_mean")[place]
        std = np.exp(given.pop("decoder.class_log_std")[place])
        matrix, bias = given[f"{FIRST}.weight"], given[f"{FIRST}.bias"]
        given[f"{FIRST}.weight"], given[f"{FIRST}.bias"] = matrix * std, matrix @ mean + bias
    return replace(config, condition="none", classes=(), class_counts=()), given
