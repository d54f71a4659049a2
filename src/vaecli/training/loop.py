"""The training loop: a generator of events that commits through the run and resumes exactly.

Whatever is drawn depends on (seed, purpose, epoch, place) only, so the place in the schedule
is all there is to restore besides weights and optimizer state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaecli.config import RunConfig, TrainConfig
from vaecli.data.dataset import Dataset, Images, static_binarized
from vaecli.errors import DivergedError, ModelError
from vaecli.evaluation.evaluate import Evaluation, evaluate
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.vae import VAE, build
from vaecli.noise import derive_seed, permutation
from vaecli.runs.directory import Run
from vaecli.runs.metrics import EpochMetrics
from vaecli.runs.weights import Shapes
from vaecli.system.processes import ONE_PROCESS, Processes
from vaecli.training import report
from vaecli.training.checkpoint import Checkpoints
from vaecli.training.events import (
    Drawn,
    EpochEnd,
    Event,
    Finished,
    Notice,
    Saved,
    Started,
    Step,
    Stopped,
)
from vaecli.training.objective import Draws, beta_at
from vaecli.training.step import Stepper

WARMUP_FRACTION = 0.05
WARMUP_STEPS = 100
COMMIT_EVERY = 50
"""A commit may cost one part in this many of the time since the last: with the first and the last
of a run, which nothing bounds, that stays below 3 %."""
REFRESH_SECONDS = 0.1
LONG_EPOCH_SECONDS = 60.0
"""In an epoch that takes longer, commits are made within it too."""


def train(
    run: Run,
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
    initial: VAE | None = None,
    processes: Processes = ONE_PROCESS,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Event]:
    """Train the model of `run`, from its last committed state if it has one.

    Args:
        run: the run directory, locked by the caller.
        dataset: the images the run's configuration was made for.
        device: where to compute.
        should_stop: asked after each step and each batch of an evaluation; True commits the
            state and ends with `Stopped`.
        initial: the model whose weights to start from, where the configuration has `init_from`
            and nothing is committed yet.
        processes: those that train this run together; only the first reads or writes it.
        dtype: float64 computes everything in it; what is written as model.safetensors is float32.

    Yields:
        `Started`, then `Step`, `EpochEnd`, `Saved` and `Notice` as they happen, and at last
        `Finished` and `Drawn`, or `Stopped`.

    Raises:
        DivergedError: the loss or a weight is NaN or infinite; the last good state is kept.
        ModelError: the committed state is damaged.
        EnvironmentFailure: the disk has too little room.
    """
    with processes.together():
        loop = _Loop(run, dataset, torch.device(device), initial, processes, dtype)
        yield from loop.restore()
        with processes.agreed():
            if loop.checkpoints is not None:
                loop.checkpoints.require_room(loop.state_bytes)
        if processes.first_says(initial is not None and not loop.committed):
            yield loop.commit()  # from here on the run needs nothing but itself
        yield loop.started()
        try:
            yield from _epochs(loop, should_stop)
        except _StopRequested:
            if not loop.committed:
                yield loop.commit()
            yield Stopped(loop.state.epoch, loop.images_seen)
            return
        if not loop.committed:
            yield loop.commit()
        yield Finished(run.path, tuple(loop.state.rows), loop.epoch_of_weights)
        yield Drawn(loop.draw())


def _epochs(loop: _Loop, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Train to the end; raises _StopRequested where some process should stop."""
    processes = loop.processes

    def pause() -> None:
        if any(processes.any_of(should_stop())):
            raise _StopRequested

    while not loop.done:
        for _ in loop.steps():
            stop, refresh = processes.any_of(should_stop(), loop.refresh_due())
            if stop:
                raise _StopRequested
            if refresh:
                yield loop.progress()
                if loop.commit_due(LONG_EPOCH_SECONDS):
                    yield loop.commit()
        yield EpochEnd(loop.end_epoch(pause))
        if loop.commit_due():
            yield loop.commit()


class _StopRequested(Exception):
    """Raised where training can be left and nothing is lost."""


def watched_split(dataset: Dataset, config: TrainConfig) -> tuple[Images, Images]:
    """The images to train on, and those whose loss patience watches.

    These are the validation split of the data, or else a part of the training images.
    """
    if dataset.validation is not None:
        return dataset.train, dataset.validation
    return dataset.train.split(config.fitted(len(dataset.train)))


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


@dataclass
class _State:
    """What a commit holds, besides the tensors of model and optimizer."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rows: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0
    """The epoch of the lowest held-out loss; 0 before the first, and without --patience."""

    def info(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_info(cls, info: dict[str, Any]) -> _State:
        rows = [EpochMetrics(**row) for row in info["rows"]]
        return cls(**{**info, "rows": rows})


class _Loop:
    """Model, optimizer and place in the schedule of one run."""

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        device: torch.device,
        initial: VAE | None,
        processes: Processes,
        dtype: torch.dtype,
    ) -> None:
        self.run = run
        self.processes = processes
        self.dtype = dtype
        self.config = run.config.training
        self.device = device
        if self.config.binarize == "static":
            dataset = static_binarized(dataset)
        train, held_out = dataset.train, None
        if self.config.patience:
            train, held_out = watched_split(dataset, self.config)
        self.train = train.to(device)
        self.held_out = None if held_out is None else held_out.to(device)
        self.test = dataset.test.to(device)
        self.batch_size = min(self.config.batch_size, len(self.train))
        self.steps_per_epoch = math.ceil(len(self.train) / self.batch_size)
        self.model = initial_model(run.config, self.train, processes).to(device, dtype)
        if initial is not None:
            self.model.load_state_dict(initial.state_dict())
        self._starts_from_given = initial is not None
        self.best = {
            name: parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if self.config.patience
        }
        """The weights of `best_epoch`."""
        self.stepper = Stepper(self.model, self.config, device, dtype, processes)
        self.state = _State()
        self.checkpoints = Checkpoints.of(run) if processes.first else None
        self._place_committed: tuple[int, int] | None = None
        self._began = time.perf_counter()
        self._refreshed = self._committed = self._began
        self._commit_cost = 0.0

    def restore(self) -> Iterator[Notice]:
        """Take up the newest committed state, if there is one."""
        warnings: list[str] = []
        tensors = self._tensors()
        found = None
        with self.processes.agreed():
            if self.checkpoints is not None:
                found = self._restore_files(self.checkpoints, tensors, warnings)
        yield from map(Notice, warnings)
        found = self.processes.share_value(found)
        self.processes.share_tensors(tensors.values())
        if found is not None:
            self.state = _State.from_info(found)
            self._place_committed = self._place

    @torch.no_grad()
    def _restore_files(
        self, checkpoints: Checkpoints, tensors: dict[str, Tensor], warnings: list[str]
    ) -> dict[str, Any] | None:
        """Fill the tensors from the newest commit; returns its info, and None without one."""
        shapes: Shapes = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
        checkpoint = checkpoints.newest(shapes, warnings.append)
        if checkpoint is None:
            if self.config.init_from and not self._starts_from_given:
                raise ModelError(
                    f"{self.run.path}: the weights this run was to start from were not saved yet",
                    "Give the command it was started with again, with --init-from.",
                )
            return None
        for name, tensor in tensors.items():
            tensor.copy_(checkpoint.tensors[name])
        self.state = _State.from_info(checkpoint.info)
        self._derive()
        checkpoints.remove_leftovers()
        return checkpoint.info

    def started(self) -> Started:
        return Started(
            epochs=self.config.epochs,
            n_train=len(self.train),
            n_test=len(self.test),
            parameters=sum(p.numel() for p in self.model.parameters()),
            epoch=self.state.epoch,
            images=self.images_seen,
            model=self.model,
        )

    @property
    def done(self) -> bool:
        """Whether the last epoch is over, or patience."""
        waited = self.state.epoch - self.state.best_epoch
        impatient = bool(self.config.patience) and waited >= self.config.patience
        return self.state.epoch >= self.config.epochs or impatient

    @property
    def committed(self) -> bool:
        """Whether the newest commit is of this very place."""
        return self._place_committed == self._place

    @property
    def _place(self) -> tuple[int, int]:
        return self.state.epoch, self.state.step

    @property
    def state_bytes(self) -> int:
        """Bytes of the tensors in a commit."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    @property
    def epoch_of_weights(self) -> int:
        """The epoch whose weights are given to the user."""
        return self.state.best_epoch or self.state.epoch

    def result(self) -> VAE:
        """The model the user gets: the best so far with --patience, else the current one."""
        if not self.state.best_epoch:
            return self.model
        with torch.device("meta"):
            model = VAE(self.model.config)
        model.load_state_dict(self.best, assign=True)
        return model

    @property
    def images_seen(self) -> int:
        """Images of the current epoch that were visited."""
        return min(self.state.step * self.batch_size, len(self.train))

    def steps(self) -> Iterator[None]:
        """Run what is left of the current epoch, one optimizer step at a time."""
        epoch, seed = self.state.epoch, self.config.seed
        window = self.run.config.data.shuffle_window
        order = permutation(len(self.train), seed=seed, epoch=epoch, window=window)
        order = order.to(self.train.pixels.device)
        draws = Draws(self.model.config, self.config, epoch, self.device)
        self._began = time.perf_counter() - self.state.seconds
        total = self.config.epochs * self.steps_per_epoch
        while self.state.step < self.steps_per_epoch:
            start = self.images_seen
            places = order[start : start + self.batch_size]
            mine = self.processes.share(len(places))
            step = epoch * self.steps_per_epoch + self.state.step
            self.stepper.optimizer.set_learning_rate(learning_rate(step, total, self.config))
            beta = beta_at(step, self.steps_per_epoch, self.config)
            pixels = self.train.pixels_at(places[mine]).to(self.device)
            self.stepper.take(pixels, draws, start + mine.start, beta, len(places))
            self.state.step += 1
            yield

    def refresh_due(self) -> bool:
        return self.processes.first and time.perf_counter() - self._refreshed >= REFRESH_SECONDS

    def progress(self) -> Step:
        self._refreshed = time.perf_counter()
        distortion, rate = (self.stepper.sums[1:] / self.images_seen).tolist()
        return Step(self.state.epoch + 1, self.images_seen, distortion, rate)

    def end_epoch(self, pause: Callable[[], None]) -> EpochMetrics:
        """The test pass and the row of metrics.csv; nothing is changed if `pause` raises."""
        training_seconds = time.perf_counter() - self._began
        optimised, distortion, rate = (self.stepper.sums / len(self.train)).tolist()
        if self.config.optimises_loss:
            optimised = distortion + rate  # not a rounding error beside it
        test = self._judge(self.test, pause)
        held_out_loss = None
        if self.held_out is not None:
            held_out_loss = self._judge(self.held_out, pause).loss
        metrics = EpochMetrics(
            epoch=self.state.epoch + 1,
            objective=optimised,
            train_loss=distortion + rate,
            train_distortion=distortion,
            train_rate=rate,
            test_loss=test.loss,
            test_distortion=test.distortion,
            test_rate=test.rate,
            images_per_second=len(self.train) / training_seconds,
            seconds=time.perf_counter() - self._began,
            held_out_loss=held_out_loss,
        )
        self._check_finite(optimised, metrics.train_loss, metrics.test_loss, held_out_loss or 0.0)
        best_epoch = self._best_epoch(metrics)
        self.state = _State(
            epoch=metrics.epoch, rows=[*self.state.rows, metrics], best_epoch=best_epoch
        )
        self.stepper.sums.zero_()
        return metrics

    @torch.no_grad()
    def _best_epoch(self, row: EpochMetrics) -> int:
        """The epoch with the lowest held-out loss, the earliest of equals; keeps its weights."""
        if row.held_out_loss is None:
            return 0
        best = self.state.rows[self.state.best_epoch - 1] if self.state.best_epoch else None
        if best is not None and row.held_out_loss >= (best.held_out_loss or 0.0):
            return best.epoch
        for name, parameter in self.model.named_parameters():
            self.best[name].copy_(parameter)
        return row.epoch

    def _judge(self, images: Images, pause: Callable[[], None]) -> Evaluation:
        """The loss of the current model, drawn pixel by pixel where training redraws them."""
        return evaluate(
            self.model,
            images,
            seed=self.config.seed,
            redraw=self.config.binarize == "dynamic",
            before_batch=pause,
            processes=self.processes,
        )

    def commit_due(self, at_least: float = 0.0) -> bool:
        since = time.perf_counter() - self._committed
        due = since >= max(at_least, COMMIT_EVERY * self._commit_cost)
        return self.processes.first_says(due)

    def commit(self) -> Saved:
        """Save the state; everything else in the run directory follows from it."""
        began = time.perf_counter()
        if self.state.step:
            self.state.seconds = began - self._began
        self._check_finite(float(self.stepper.sums.sum()))
        with self.processes.agreed():
            if self.checkpoints is not None:
                self.checkpoints.commit(self._tensors(), self.state.info())
                self._derive()
        self._place_committed = self._place
        self._committed = time.perf_counter()
        self._commit_cost = self._committed - began
        return Saved(self.state.epoch, self.images_seen)

    def draw(self) -> tuple[Path, ...]:
        """Write pictures and model card, after which nothing is left to do; their paths."""
        drawn: tuple[Path, ...] = ()
        with self.processes.agreed():
            if self.checkpoints is not None:
                rows, epoch = tuple(self.state.rows), self.epoch_of_weights
                drawn = report.write(self.run, self._given(), self.test, rows, epoch)
                self.checkpoints.finish()
        return drawn

    def _derive(self) -> None:
        self.run.write_weights(self._given())
        self.run.write_metrics(self.state.rows)

    def _given(self) -> VAE:
        """The result in float32, whatever it was computed in."""
        result = self.result()
        return result if self.dtype == torch.float32 else deepcopy(result).float()

    def _check_finite(self, *losses: float) -> None:
        finite = all(map(math.isfinite, losses)) and all(
            bool(torch.isfinite(p).all()) for p in self.model.parameters()
        )
        if not finite:
            raise DivergedError(
                f"training diverged in epoch {self.state.epoch + 1}: the loss is no longer finite",
                f"Start again with a lower --lr (it was {self.config.lr:g}).",
            )

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor a commit holds, by name; the tensors themselves, not copies."""
        tensors = {"sums": self.stepper.sums}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"model.{name}": parameter for name, parameter in self.model.named_parameters()}
        tensors |= {f"adam.{name}": tensor for name, tensor in self.stepper.optimizer.state()}
        return tensors


def initial_model(config: RunConfig, images: Images, processes: Processes = ONE_PROCESS) -> VAE:
    """The model before its first step.

    Args:
        config: the run's configuration.
        images: the training images, for the output bias.
        processes: those that train together, of which each looks at its share of the images.
    """
    model = build(config.model, seed=derive_seed(config.training.seed, "weights"))
    distribution = LIKELIHOODS[config.model.likelihood]
    if config.training.output_bias == "mean":
        mean = images.mean_image(processes).flatten()
        bias = distribution.output_bias(mean, len(images))
    else:
        bias = torch.zeros(config.model.pixels)
    with torch.no_grad():
        model.decoder.output.bias.copy_(bias)
        if model.decoder.log_scale is not None and distribution.log_scale is not None:
            model.decoder.log_scale.fill_(distribution.log_scale)
    return model
