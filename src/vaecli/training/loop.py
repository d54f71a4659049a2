"""The training loop: a generator of events that commits through the run and resumes exactly.

Every random draw depends only on (seed, purpose, epoch, place), so the place in the schedule is
all there is to restore besides weights and optimizer state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from vaecli.config import RunConfig
from vaecli.data.dataset import Dataset, Images, static_binarized
from vaecli.errors import DivergedError, ModelError
from vaecli.evaluation.evaluate import Evaluation, evaluate
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.vae import VAE, build
from vaecli.philox import derive_seed
from vaecli.runs.directory import Run
from vaecli.runs.metrics import EpochMetrics
from vaecli.system.processes import ONE_PROCESS, Processes
from vaecli.training import report
from vaecli.training.commits import Commits, State
from vaecli.training.epoch import Passes
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
from vaecli.training.patience import Best, watched_split

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
        yield from loop.restore(needed=bool(loop.config.init_from) and initial is None)
        loop.require_room()
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
                if loop.commits.due(LONG_EPOCH_SECONDS):
                    yield loop.commit()
        yield EpochEnd(loop.end_epoch(pause))
        if loop.commits.due():
            yield loop.commit()


class _StopRequested(Exception):
    """Raised where training can be left and nothing is lost."""


class _Loop:
    """The training of one run: its model, and what is done with it in turn."""

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        device: torch.device,
        initial: VAE | None,
        processes: Processes,
        dtype: torch.dtype,
    ) -> None:
        self.run, self.processes, self.config = run, processes, run.config.training
        if self.config.binarize == "static":
            dataset = static_binarized(dataset)
        train, held_out = dataset.train, None
        if self.config.patience:
            train, held_out = watched_split(dataset, self.config)
        self.held_out = None if held_out is None else held_out.to(device)
        self.test = dataset.test.to(device)
        train = train.to(device)
        self.model = initial_model(run.config, train, processes).to(device, dtype)
        if initial is not None:
            self.model.load_state_dict(initial.state_dict())
        self.passes = Passes(run.config, train, self.model, device, dtype, processes)
        self.best = Best(self.model, self.config.patience)
        self.commits = Commits(run, processes)
        self.state = State()
        self._refreshed = time.perf_counter()

    def restore(self, *, needed: bool) -> Iterator[Notice]:
        """Take up the newest committed state; ModelError without one where it is needed."""
        warnings: list[str] = []
        restored = self.commits.restore(self._tensors(), self._derive, warnings.append)
        yield from map(Notice, warnings)
        if restored is not None:
            self.state = restored
        elif needed:
            raise ModelError(
                f"{self.run.path}: the weights this run was to start from were not saved yet",
                "Give the command it was started with again, with --init-from.",
            )

    def require_room(self) -> None:
        """Check that the disk has room for the commits."""
        with self.processes.agreed():
            if self.commits.checkpoints is not None:
                size = sum(tensor.nbytes for tensor in self._tensors().values())
                self.commits.checkpoints.require_room(size)

    def started(self) -> Started:
        return Started(
            epochs=self.config.epochs,
            n_train=len(self.passes.images),
            n_test=len(self.test),
            parameters=sum(p.numel() for p in self.model.parameters()),
            epoch=self.state.epoch,
            images=self.images_seen,
            model=self.model,
        )

    @property
    def done(self) -> bool:
        """Whether the last epoch is over, or patience."""
        epoch, best = self.state.epoch, self.state.best_epoch
        return epoch >= self.config.epochs or self.best.waited_enough(epoch, best)

    @property
    def committed(self) -> bool:
        """Whether the newest commit is of this very place."""
        return self.commits.has(self.state)

    @property
    def epoch_of_weights(self) -> int:
        """The epoch whose weights are given to the user."""
        return self.state.best_epoch or self.state.epoch

    @property
    def images_seen(self) -> int:
        """Images of the current epoch that were visited."""
        return self.passes.images_seen(self.state)

    def steps(self) -> Iterator[None]:
        """Run what is left of the current epoch, one optimizer step at a time."""
        return self.passes.steps(self.state)

    def refresh_due(self) -> bool:
        return self.processes.first and time.perf_counter() - self._refreshed >= REFRESH_SECONDS

    def progress(self) -> Step:
        self._refreshed = time.perf_counter()
        distortion, rate = (self.passes.stepper.sums[1:] / self.images_seen).tolist()
        return Step(self.state.epoch + 1, self.images_seen, distortion, rate)

    def end_epoch(self, pause: Callable[[], None]) -> EpochMetrics:
        """The test pass and the row of metrics.csv; nothing is changed if `pause` raises."""
        training_seconds, n_train = self.passes.seconds, len(self.passes.images)
        optimised, distortion, rate = (self.passes.stepper.sums / n_train).tolist()
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
            images_per_second=n_train / training_seconds,
            seconds=self.passes.seconds,
            held_out_loss=held_out_loss,
        )
        self._check_finite(optimised, metrics.train_loss, metrics.test_loss, held_out_loss or 0.0)
        rows = [*self.state.rows, metrics]
        best_epoch = self.best.epoch(rows, self.state.best_epoch)
        self.state = State(epoch=metrics.epoch, rows=rows, best_epoch=best_epoch)
        self.passes.stepper.sums.zero_()
        return metrics

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

    def commit(self) -> Saved:
        """Save the state; everything else in the run directory follows from it."""
        if self.state.step:
            self.state.seconds = self.passes.seconds
        self._check_finite(float(self.passes.stepper.sums.sum()))
        self.commits.commit(self.state, self._tensors(), self._derive)
        return Saved(self.state.epoch, self.images_seen)

    def draw(self) -> tuple[Path, ...]:
        """Write pictures and model card, after which nothing is left to do; their paths."""
        drawn: tuple[Path, ...] = ()
        with self.processes.agreed():
            if self.commits.checkpoints is not None:
                rows, epoch = tuple(self.state.rows), self.epoch_of_weights
                drawn = report.write(self.run, self._result(self.state), self.test, rows, epoch)
                self.commits.checkpoints.finish()
        return drawn

    def _derive(self, state: State) -> None:
        result = self._result(state)
        self.run.write_weights(result.config, result.weights())
        self.run.write_metrics(state.rows)

    def _result(self, state: State) -> VAE:
        """The model the user gets, in float32, whatever it was computed in."""
        result = self.best.model(state.best_epoch)
        computed_in = next(result.parameters()).dtype
        return result if computed_in == torch.float32 else deepcopy(result).float()

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
        stepper = self.passes.stepper
        tensors = {"sums": stepper.sums}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
        tensors |= {f"model.{name}": parameter for name, parameter in self.model.named_parameters()}
        tensors |= {f"adam.{name}": tensor for name, tensor in stepper.optimizer.state()}
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
        mean = torch.from_numpy(images.mean_image(processes))
        bias = distribution.output_bias(mean, len(images))
    else:
        bias = torch.zeros(config.model.output_shape)
    with torch.no_grad():
        model.decoder.output.bias.copy_(bias.flatten())
        if model.decoder.log_scale is not None and distribution.log_scale is not None:
            model.decoder.log_scale.fill_(distribution.log_scale)
    return model
