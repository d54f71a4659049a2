"""A training step: the gradient of a batch, split into parts if needed, and the optimizer update.

The batch may be shared by several processes, and its K samples per image may not fit in memory
at once; the step is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from vaecli.config import Gradient, TrainConfig
from vaecli.model.precision import autocast, exactness
from vaecli.model.vae import VAE
from vaecli.system.device import float64_home, has_float64
from vaecli.system.processes import ONE_PROCESS, Processes
from vaecli.training.backpropagation import Backpropagation, covers
from vaecli.training.cuda_graph import Replayed, recorder
from vaecli.training.flat import Flat
from vaecli.training.objective import Draws, Outcome, objective, passes
from vaecli.training.optimizer import Adam, MuonAdam

ADAM_BETAS = (0.9, 0.999)
GRID_BETAS = (0.9, 0.99)
"""Of Adam beside Muon."""


class _Batch(nn.Module):
    """A model with its objective as the forward pass, which is what DistributedDataParallel sees.

    Args:
        model: whose objective it is.
        free_bits: as for `objective`.
        gradient: as for `objective`.
    """

    def __init__(self, model: VAE, free_bits: float, gradient: Gradient) -> None:
        super().__init__()
        self.model = model
        self._free_bits, self._gradient = free_bits, gradient

    def forward(
        self, images: Tensor, noise: Tensor, beta: Tensor | float, labels: Tensor | None = None
    ) -> Outcome:
        """Objective, distortion and rate of each image; arguments as for `objective`."""
        return objective(self.model, images, noise, beta, self._free_bits, self._gradient, labels)


class Stepper:
    """Takes the steps of a training, and keeps the sums of what they saw.

    Args:
        model: what is trained, on `device` and in `dtype`.
        config: of the training.
        device: where it is computed.
        dtype: in what.
        processes: those that share every batch.
    """

    def __init__(
        self,
        model: VAE,
        config: TrainConfig,
        device: torch.device,
        dtype: torch.dtype,
        processes: Processes,
    ) -> None:
        self._model, self._config, self._processes = model, config, processes
        self._device, self._dtype = device, dtype
        parameters = dict(model.named_parameters())
        self._written_out: Backpropagation | None = None
        """What a step computes, without autograd, where that is faster."""
        flat = None
        if processes is ONE_PROCESS and covers(model, config, device):
            low = torch.bfloat16 if config.precision == "bf16" else None
            flat = Flat(parameters)
            self._written_out = Backpropagation(model, flat, config.free_bits, low)
        self.optimizer: Adam | MuonAdam = (
            MuonAdam(parameters, GRID_BETAS)
            if model.config.arch == "grid"
            else Adam(parameters, ADAM_BETAS, flat)
        )
        self._sums = torch.zeros(3, dtype=torch.float64, device=float64_home(device))
        self._waiting: list[Tensor] = []
        """Sums of steps that are not in `_sums` yet: to fetch each at once would stop the GPU."""
        kept = torch.float64 if has_float64(device) else torch.float32
        self._step_sums = torch.zeros(3, dtype=kept, device=device)
        self._batch = processes.parallel(
            _Batch(model, config.free_bits, config.gradient), self._example_objective
        )
        """The same with autograd; its gradients are shared by the processes."""
        self._fit: Callable[..., None] = self._fit_batch
        if processes is ONE_PROCESS and (found := recorder(device)) is not None:
            self._fit = Replayed(self._fit_batch, found)
        self._recorded = isinstance(self._fit, Replayed)

    @property
    def sums(self) -> Tensor:
        """Objective, distortion and rate summed over the images of this epoch so far, float64.

        The tensor itself: what is written into it counts.
        """
        if self._waiting:
            self._sums += torch.stack(self._waiting).cpu().double().sum(0)
            self._waiting.clear()
        return self._sums

    def take(
        self,
        pixels: Tensor,
        draws: Draws,
        start: int,
        beta: float,
        batch_size: int,
        labels: Tensor | None = None,
    ) -> None:
        """One step on a batch of `batch_size` images, of which these are this process's.

        Args:
            pixels: (B, C, H, W) uint8, this process's part of the batch.
            draws: of the epoch.
            start: place of the first of them in the visiting order.
            beta: weight of the rate.
            batch_size: images in the batch, over all processes.
            labels: their classes, (B,) int64, where the model takes them; here and below.
        """
        stop = start + len(pixels)
        images = draws.images(pixels, start).to(self._dtype)
        weight: Tensor | float = beta
        if self._recorded:  # which a replay reads anew
            weight = torch.full((), beta, device=self._device, dtype=self._dtype)
        samples = self._config.importance_samples
        parts = list(passes(start, stop, self._model.config, samples)) or [(start, start)]
        if len(pixels) == batch_size and (len(parts) == 1 or self._recorded):
            given = () if labels is None else (labels,)
            self._fit(images, draws.noise(start, stop).to(self._dtype), weight, *given)
            return
        self.optimizer.forget_gradients()
        for first, last in parts:
            shared = nullcontext() if last == stop else self._processes.local(self._batch)
            with shared:
                rows = slice(first - start, last - start)
                noise = draws.noise(first, last).to(self._dtype)
                known = None if labels is None else labels[rows]
                self._add_gradient(images[rows], noise, weight, batch_size, known)
        self._finish_step()

    def _fit_batch(
        self, images: Tensor, noise: Tensor, beta: Tensor | float, labels: Tensor | None = None
    ) -> None:
        """A step on a whole batch; the same work on the device each time."""
        self.optimizer.forget_gradients()
        samples, count = self._config.importance_samples, len(images)
        for first, last in passes(0, count, self._model.config, samples):
            known = None if labels is None else labels[first:last]
            self._add_gradient(images[first:last], noise[first:last], beta, count, known)
        self._finish_step()

    def _add_gradient(
        self,
        images: Tensor,
        noise: Tensor,
        beta: Tensor | float,
        batch_size: int,
        labels: Tensor | None,
    ) -> None:
        """Add these images' part of the gradient of a batch, and their sums."""
        if self._written_out is not None:  # a batch has one part here
            self._add_sums(self._written_out(images, noise, beta))
            return
        precision = self._config.precision
        with exactness(precision, self._device):
            with autocast(precision, self._device):
                outcome: Outcome = self._batch(images, noise, beta, labels)
            # the gradient is the mean over the processes of what each computes
            share = outcome.objective.sum() / batch_size * self._processes.count
            torch.autograd.backward(share)
        self._add_sums(outcome)

    @torch.no_grad()
    def _add_sums(self, outcome: Outcome) -> None:
        self._step_sums += torch.stack(outcome).sum(1)

    def _example_objective(self, batch: nn.Module) -> Tensor:
        """The objective of one black image."""
        model, samples = self._model.config, self._config.importance_samples
        image = torch.zeros(1, *model.image_shape, dtype=self._dtype, device=self._device)
        drawn = (1, model.latents) if samples == 1 else (1, samples, model.latents)
        noise = torch.zeros(drawn, dtype=self._dtype, device=self._device)
        label = None
        if model.classes:
            label = torch.zeros(1, dtype=torch.int64, device=self._device)
        outcome: Outcome = batch(image, noise, noise.new_ones(()), label)
        return outcome.objective.sum()

    def _finish_step(self) -> None:
        self.optimizer.step()
        self._processes.add(self._step_sums)
        if has_float64(self._device):
            self._sums += self._step_sums
        else:
            self._waiting.append(self._step_sums.clone())
        self._step_sums.zero_()
