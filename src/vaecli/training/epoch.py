"""Passes over the training images, one optimizer step at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch

from vaecli.config import RunConfig
from vaecli.data.dataset import Images
from vaecli.data.labels import on_device
from vaecli.model.vae import VAE
from vaecli.noise import permutation
from vaecli.system.processes import Processes
from vaecli.training.commits import State
from vaecli.training.objective import Draws
from vaecli.training.schedule import beta_at, learning_rate
from vaecli.training.step import Stepper


class Passes:
    """Passes over the training images of a run.

    Args:
        config: of the run.
        images: what is trained on.
        model: what is trained, on `device` and in `dtype`.
        device: where it is computed.
        dtype: in what.
        processes: those that share every batch.
    """

    def __init__(
        self,
        config: RunConfig,
        images: Images,
        model: VAE,
        device: torch.device,
        dtype: torch.dtype,
        processes: Processes,
    ) -> None:
        self._config, self.images, self._model = config, images, model
        self._device, self._processes = device, processes
        self.batch_size = min(config.training.batch_size, len(images))
        self.steps_per_epoch = math.ceil(len(images) / self.batch_size)
        self.stepper = Stepper(model, config.training, device, dtype, processes)
        self._labels = on_device(config.model, images, device)
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time of the current epoch so far, over all processes that were stopped in it."""
        return time.perf_counter() - self._began

    def images_seen(self, state: State) -> int:
        """Images of the current epoch that were visited."""
        return min(state.step * self.batch_size, len(self.images))

    def steps(self, state: State) -> Iterator[None]:
        """Run what is left of an epoch, and count its steps in `state`."""
        training = self._config.training
        window = self._config.data.shuffle_window
        order = permutation(len(self.images), seed=training.seed, epoch=state.epoch, window=window)
        if isinstance(self.images.pixels, torch.Tensor):
            order = order.to(self.images.pixels.device)
        draws = Draws(self._model.config, training, state.epoch, self._device)
        self._began = time.perf_counter() - state.seconds
        total = training.epochs * self.steps_per_epoch
        while state.step < self.steps_per_epoch:
            start = self.images_seen(state)
            places = order[start : start + self.batch_size]
            mine = self._processes.share(len(places))
            step = state.epoch * self.steps_per_epoch + state.step
            self.stepper.optimizer.set_learning_rate(learning_rate(step, total, training))
            beta = beta_at(step, self.steps_per_epoch, training)
            pixels = self.images.pixels_at(places[mine]).to(self._device)
            labels = None
            if self._labels is not None:
                labels = self._labels[places[mine].to(self._device)]
            self.stepper.take(pixels, draws, start + mine.start, beta, len(places), labels)
            state.step += 1
            yield
