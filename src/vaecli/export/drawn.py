"""Latents drawn from the prior that a run keeps, for the page to choose among.

The page could compute neither a network of attention nor covariances of a thousand latents at the
speed of a click, and under N(0, I) the latents of a grid know nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vaecli.runs import fitted_prior, flow_prior
from vaecli.runs.load import LoadedModel
from vaecli.system.callbacks import Progress, no_progress

MOST_DRAWS, MOST_NUMBERS = 1024, 1 << 17
"""So many draws, of so many latents in all: 350 kB of the page."""
FEWEST_DRAWS, OF_A_CLASS = 16, 8
"""But at least so many, and of each class."""


@dataclass(frozen=True)
class Drawn:
    """Draws of a prior.

    Attributes:
        prior: what `sample --prior` calls it.
        latents: (N, L).
        classes: draw i is of class i modulo this; 1 where draws serve every class.
    """

    prior: str
    latents: NDArray[np.float32]
    classes: int


def from_kept(
    loaded: LoadedModel,
    device: torch.device,
    *,
    seed: int | None = None,
    progress: Progress = no_progress,
) -> Drawn | None:
    """Draws of the best prior that a run keeps for its weights, or None where it keeps none.

    Args:
        loaded: the model.
        device: where a network draws.
        seed: of the draws; None for the run's own.
        progress: told how many there are.

    Raises:
        ModelError: the prior that is kept is damaged.
    """
    run, config = loaded.run, loaded.config
    if run is None or config.prior != "normal":
        return None
    count = max(FEWEST_DRAWS, min(MOST_DRAWS, MOST_NUMBERS // config.latents))
    seed = loaded.seed(seed)
    if (flow := flow_prior.read(run, loaded.weights)) is not None:
        classes = len(config.classes)
        count = max(count, OF_A_CLASS * classes)
        labels = np.arange(count) % classes if classes else None
        drawn = flow.to(device).draw(count, seed=seed, labels=labels, progress=progress)
        return Drawn(flow.name, drawn, max(1, classes))
    if (kept := fitted_prior.read(run, loaded.weights)) is not None:
        return Drawn("gmm", kept.mixture.draw(count, seed=seed), 1)
    return None
