"""Fits the prior of `--prior flow-matching` to the latents of the training images.

Axes: N images, B batch, L latents.
"""

from __future__ import annotations

import copy
import math
import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaecli import philox
from vaecli.config import ModelConfig, Precision
from vaecli.errors import DivergedError
from vaecli.evaluation.latent_space import Embedding
from vaecli.model.flow_matching import BATCH_POSITIONS, FlowMatching, VelocityField, groups
from vaecli.model.numpy_prior import quiet
from vaecli.model.precision import autocast, exactness, inference
from vaecli.runs.flow_prior import FittedFlow, field_of
from vaecli.system.callbacks import Progress, Report, no_progress, no_report
from vaecli.training.optimizer import MuonAdam
from vaecli.training.step import GRID_BETAS

BATCH, MOST_STEPS = 64, 6000
"""Images of a step, fewer where they have many positions; and steps."""
FEWEST_STEPS, EPOCHS = 1000, 20
"""Smaller sets get 20 epochs, or 1,000 steps where that is more."""
LEARNING_RATE, SHARE_OF_ADAM = 0.05, 0.04
"""Of Muon, and Adam's beside it."""
WARM_UP, FALLING = 100, 0.7
"""Steps in which the rates rise, and the share of all steps, the last ones, in which they fall."""
AVERAGED = 0.999
"""Share of the average of the weights that a step leaves as it is, once there were many."""
CHECKS, PATIENCE = 20, 5
"""Checks on held-out images, and how many without gain end the fit."""
GUIDE = 4
"""The check whose weights become the guide of draws, if better ones come later."""
HELD_OUT, MOST_HELD_OUT = 10, 1000
"""One image in this many is held out, at most so many; smaller numbers are judged repeatedly."""
FIRST_TIMED, LAST_TIMED = 5, 15
"""Steps before which the clock is read, to say how long all will take."""
SMALLEST_SCALE = 1e-6
"""Latents that vary less are taken for constants."""


class _Latents(NamedTuple):
    """Posteriors in units in which latents have mean 0 and variance 1, and their classes."""

    mean: Tensor
    std: Tensor
    labels: Tensor | None

    def rows(self, places: Tensor) -> _Latents:
        labels = None if self.labels is None else self.labels[places]
        return _Latents(self.mean[places], self.std[places], labels)


@quiet()
def fit(
    embedding: Embedding,
    labels: NDArray[np.int64] | None,
    config: ModelConfig,
    *,
    seed: int,
    device: torch.device,
    precision: Precision = "fp32",
    progress: Progress = no_progress,
    report: Report = no_report,
) -> FittedFlow:
    """Teach a network the velocities of the latents of training images.

    Every step draws latents from the posteriors anew; of a grid those of the finest level only,
    whose posteriors belong to the draws of the levels above.  The weights that are kept are a
    running average, the one of `CHECKS` with the smallest error on images that were held out; an
    earlier one becomes the guide.

    Args:
        embedding: mean and log variance of q(z|x) of the N training images, each (N, L); of a
            grid at the draws of this seed, see `latent_space.embed`.
        labels: places of their classes, (N,), for a model that takes them.
        config: of the model.
        seed: seed of all draws, and of the first weights.
        device: where it is computed.
        precision: of the steps.
        progress: told (what, done, total) as it goes.
        report: told how long it will take.

    Raises:
        DivergedError: latents are not finite, or the network gives nothing that is.
    """
    count = len(embedding.mean)
    mean, std = _redrawable(embedding, config, seed)
    centre = mean.mean(0, dtype=np.float64)
    spread = mean.var(0, dtype=np.float64) + np.square(std).mean(0, dtype=np.float64)
    scale = np.sqrt(spread).clip(min=SMALLEST_SCALE)
    _require_finite(bool(np.isfinite(scale).all()), "the latents of the training images")
    centre, scale = centre.astype(np.float32), scale.astype(np.float32)
    latents = _Latents(
        torch.from_numpy((mean - centre) / scale).to(device),
        torch.from_numpy(std / scale).to(device),
        None if labels is None else torch.from_numpy(labels).to(device),
    )
    order = torch.from_numpy(
        philox.uniform(1, 0, count, seed=seed, purpose="flow matching held out")[:, 0].argsort()
    )
    some = max(count // HELD_OUT, int(count > 1))
    held_out = order[: min(some, MOST_HELD_OUT)]
    fitted = order[len(held_out) :]
    height, width = groups(config)[-1][1:]
    batch = max(1, min(BATCH, BATCH_POSITIONS // (height * width)))
    steps = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * -(-len(fitted) // batch)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(philox.derive_seed(seed, "flow matching"))
        field = field_of(config).to(device)
    fitting = _Fitting(field, latents, fitted, batch, seed, precision)
    judge = _Judge(latents, held_out if len(held_out) else fitted, batch, seed)
    best, best_step, best_error, without_gain = field, 0, math.inf, 0
    guide, guide_step, checks = field, 0, 0
    began = 0.0
    for step in range(steps):
        progress("fitting the prior", step, steps)
        if step in (FIRST_TIMED, LAST_TIMED):
            float(fitting.error)  # or a GPU is still at what it was told
            began, before = time.perf_counter(), began
        if step == LAST_TIMED:
            minutes = (began - before) / (LAST_TIMED - FIRST_TIMED) * steps / 60
            length = "less than a minute" if minutes < 1 else f"up to {minutes:.0f} min"
            report(f"prior: {steps:,} steps, {length} here; Ctrl-C ends it, and nothing is kept")
        fitting.step(step, steps)
        if (step + 1) * CHECKS // steps > step * CHECKS // steps:
            error, checks = judge.error(fitting.average), checks + 1
            if checks == GUIDE:
                guide, guide_step = copy.deepcopy(fitting.average), step + 1
            without_gain += 1
            if error < best_error:
                best, best_step = copy.deepcopy(fitting.average), step + 1
                best_error, without_gain = error, 0
            if without_gain == PATIENCE:
                break
    progress("fitting the prior", steps, steps)
    _require_finite(best_step > 0, "the error of the network")
    guided = best_step > guide_step > 0
    return FittedFlow(
        FlowMatching(best, guide if guided else None, centre, scale),
        fitted=len(fitted),
        held_out=len(held_out),
        steps=best_step,
        guide_steps=guide_step if guided else None,
        error=best_error,
    )


def squared_error(
    field: nn.Module, latents: Tensor, noise: Tensor, times: Tensor, labels: Tensor | None
) -> Tensor:
    """Mean squared error of the velocity between noise and latents, all (B, L), at times (B,).

    Source: Lipman et al. 2023, equation 23 with a smallest standard deviation of 0,
    https://arxiv.org/abs/2210.02747
    """
    share = times[:, None]
    velocity: Tensor = field((1 - share) * noise + share * latents, times, labels)
    return (velocity - (latents - noise)).square().mean()


def _redrawable(
    embedding: Embedding, config: ModelConfig, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation (N, L) of what can be drawn again and again for each image.

    The finest group of a grid was encoded at the draws of those above it, which are all it fits to.
    """
    fixed = config.latents - math.prod(groups(config)[-1])
    mean, std = embedding.mean, np.exp(0.5 * embedding.log_variance)
    if fixed:
        width, count = config.latents, len(mean)
        noise = philox.normal(width, 0, count, seed=seed, purpose="aggregate-posterior")
        mean = mean.copy()
        mean[:, :fixed] += std[:, :fixed] * noise[:, :fixed]
        std[:, :fixed] = 0
    return mean, std


def _require_finite(finite: bool, what: str) -> None:
    if not finite:
        raise DivergedError(
            f"--prior flow-matching: {what} is not finite, so there is nothing to draw",
            "Choose --prior gmm or normal, or train the model again with a lower learning rate.",
        )


class _Fitting:
    """The steps, and the running average of the weights."""

    def __init__(
        self,
        field: VelocityField,
        latents: _Latents,
        places: Tensor,
        batch: int,
        seed: int,
        precision: Precision,
    ) -> None:
        self.error = torch.zeros(())
        self.average = copy.deepcopy(field).requires_grad_(requires_grad=False)
        self._field, self._latents, self._places = field, latents, places
        self._batch, self._device, self._precision = batch, latents.mean.device, precision
        self._optimizer = MuonAdam(dict(field.named_parameters()), GRID_BETAS, SHARE_OF_ADAM)
        self._generator = torch.Generator()  # on the CPU, so that all devices draw the same
        self._generator.manual_seed(philox.derive_seed(seed, "flow matching steps"))

    def step(self, step: int, steps: int) -> None:
        """Take one, of so many."""
        size = (self._batch,)
        chosen = torch.randint(len(self._places), size, generator=self._generator)
        batch = self._latents.rows(self._places[chosen].to(self._device))
        drawn = _drawn(batch, self._generator)
        self._optimizer.forget_gradients()
        with exactness(self._precision, self._device):
            with autocast(self._precision, self._device):
                error = squared_error(self._field, *drawn, batch.labels)
            error.backward()
        self.error = error.detach()
        rise, fall = (step + 1) / WARM_UP, (1 - step / steps) / FALLING
        self._optimizer.set_learning_rate(LEARNING_RATE * min(1, rise, fall))
        self._optimizer.step()
        with torch.no_grad():
            new = 1 - min(AVERAGED, (step + 1) / (step + 10))
            pairs = zip(self.average.parameters(), self._field.parameters(), strict=True)
            for average, parameter in pairs:
                average.lerp_(parameter, new)


class _Judge:
    """The error on images that were held out, at draws that are the same for every judgement."""

    def __init__(self, latents: _Latents, places: Tensor, batch: int, seed: int) -> None:
        self._latents, self._batch = latents, batch
        self._places = places.repeat(-(-MOST_HELD_OUT // len(places)))[:MOST_HELD_OUT]
        self._seed = philox.derive_seed(seed, "flow matching judged")

    @inference()
    def error(self, field: VelocityField) -> float:
        """Mean squared error of a network."""
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        total = 0.0
        for places in self._places.split(self._batch):
            batch = self._latents.rows(places.to(self._latents.mean.device))
            drawn = _drawn(batch, generator)
            total += len(places) * float(squared_error(field, *drawn, batch.labels))
        return total / len(self._places)


def _drawn(batch: _Latents, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Latents and noise (B, L), and times (B,), more of them about the middle of the way.

    Source of the times: Esser et al. 2024, section 3.1, https://arxiv.org/abs/2403.03206
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(batch.mean.device)

    latents = batch.mean + batch.std * normal(*batch.mean.shape)
    return latents, normal(*latents.shape), torch.sigmoid(normal(len(latents)))
