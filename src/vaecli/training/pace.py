"""How long an epoch will take here, from a few steps of the model before its training."""

from __future__ import annotations

import itertools
import math
import time

import torch

from vaecli.evaluation.evaluate import BATCH_SIZE, evaluate
from vaecli.model.vae import build
from vaecli.system.processes import ONE_PROCESS
from vaecli.training.commits import State
from vaecli.training.epoch import Passes
from vaecli.training.plan import Plan

WARM_UP, STEPS, SECONDS = 2, 20, 2.0
"""Steps left out, steps timed at most, and seconds after which no further one is begun."""


def epoch_seconds(plan: Plan, device: torch.device) -> float:
    """Seconds of an epoch of `plan` with its test pass, on a machine that stays as busy as it is.

    The model that is stepped is thrown away.
    """
    model = build(plan.config.model, seed=0).to(device)
    images, test = plan.dataset.train, plan.dataset.test
    passes = Passes(plan.config, images, model, device, torch.float32, ONE_PROCESS)
    steps = itertools.chain.from_iterable(passes.steps(State()) for _ in itertools.count())
    for _ in range(WARM_UP):
        next(steps)
    began = _now(device)
    for count in range(1, STEPS + 1):
        next(steps)
        training = (_now(device) - began) / count
        if count * training > SECONDS:
            break
    few = test.first(BATCH_SIZE).to(device)
    for _ in range(2):  # the first time is longer than those that follow
        began = _now(device)
        evaluate(model, few, seed=0)
    judging = (_now(device) - began) / len(few)
    data = plan.config.data
    fitted = plan.config.training.fitted(data.n_train, data.n_validation)
    return training * math.ceil(fitted / passes.batch_size) + judging * len(test)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
