"""What a training will cost here: the memory of a step, and the time of an epoch."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vaecli.config import ModelConfig
from vaecli.data.dataset import Images
from vaecli.evaluation.evaluate import evaluate
from vaecli.model import network
from vaecli.model.vae import VAE, build
from vaecli.system.processes import ONE_PROCESS
from vaecli.training.commits import State
from vaecli.training.epoch import Passes
from vaecli.training.plan import Plan

WARM_UP, MOST, SECONDS = 2, 20, 0.5
"""Rounds left out, where there are more; rounds at most; seconds after which none is begun."""
COLD = 10.0
"""Seconds up to which the first round is left out, as it also prepares memory and threads."""

LARGE = 1 << 26
"""Parameters, and 64 features of a pixel, above which a model is not made to count them."""


def count_activations(config: ModelConfig, device: torch.device) -> int:
    """Values that the gradient of one more image in a batch needs.

    On a GPU, and for a large model, they are counted on torch's meta device, which allocates
    nothing; torch imports its compiler for that, which takes two seconds.
    """
    if device.type != "cpu" or network.count_parameters(config) + 64 * config.pixels > LARGE:
        device = torch.device("meta")
    with device:
        model = build(config, seed=0)

    def values(batch: int) -> int:
        kept = list[int]()

        def pack(tensor: Tensor) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with device, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            labels = torch.zeros(batch, dtype=torch.int64) if config.classes else None
            images, noise = torch.zeros(batch, *config.image_shape), (batch, config.latents)
            model(images, torch.zeros(noise), labels)
        return sum(kept)

    return values(2) - values(1)  # the difference leaves out the weights, which are kept once


def epoch_seconds(plan: Plan, device: torch.device) -> float:
    """Seconds of an epoch of `plan` with its test pass, on a machine that stays as busy as it is.

    The model that is stepped is thrown away.
    """
    model = build(plan.config.model, seed=0).to(device)
    images, test = plan.dataset.train, plan.dataset.test
    passes = Passes(plan.config, images, model, device, torch.float32, ONE_PROCESS)
    steps = itertools.chain.from_iterable(passes.steps(State()) for _ in itertools.count())
    step = _seconds(lambda: next(steps), device)
    data = plan.config.data
    fitted = plan.config.training.fitted(data.n_train, data.n_validation)
    return step * math.ceil(fitted / passes.batch_size) + _judged(
        model, test, passes.batch_size, device
    )


def _judged(model: VAE, test: Images, batch_size: int, device: torch.device) -> float:
    """Seconds of a test pass, of which a part does not grow with the images."""
    counts = 1, min(len(test), batch_size)
    few = (test.first(count).to(device) for count in counts)
    one, more = (_seconds(partial(evaluate, model, each, seed=0), device) for each in few)
    return one + (more - one) * (len(test) - 1) / max(1, counts[1] - 1)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of some rounds of work; of one alone, if that takes long."""
    rounds = list[float]()
    while len(rounds) < MOST and sum(rounds[1:]) < SECONDS and sum(rounds[:1]) < COLD:
        began = _now(device)
        work()
        rounds.append(_now(device) - began)
    return statistics.median(rounds[WARM_UP:] or rounds[1:] or rounds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
