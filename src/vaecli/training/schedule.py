"""The learning rate, and the weight of the rate in the objective, at each step of a training."""

from __future__ import annotations

import math

from vaecli.config import TrainConfig
from vaecli.model.bounds import warm_up

WARMUP_FRACTION = 0.05
WARMUP_STEPS = 100


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of step 0 <= step < total.

    `linear` and `cosine` rise linearly over the first twentieth of the steps, or over 100 of them
    where that is longer and no more than a quarter, then fall to zero.
    """
    if config.schedule == "constant":
        return config.lr
    warmup = max(1, round(WARMUP_FRACTION * total), min(WARMUP_STEPS, total // 4))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    left = (total - step) / (total - warmup + 1)
    return config.lr * (
        left if config.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    )


def beta_at(step: int, steps_per_epoch: int, training: TrainConfig) -> float:
    """The weight of the rate at step 0, 1, ... of a training."""
    return training.beta * warm_up(step, training.warmup_epochs * steps_per_epoch)
