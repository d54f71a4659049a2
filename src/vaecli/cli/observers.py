"""Turns the events of a training into progress lines, pictures and the animation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vaecli.cli.options import Common
from vaecli.system import files
from vaecli.system.signals import stop_flag
from vaecli.terminal import summary
from vaecli.terminal.progress import training_view
from vaecli.training.events import EpochEnd, Event, Finished, Notice, Saved, Started, Step, Stopped

if TYPE_CHECKING:
    import torch

    from vaecli.pictures.animation import Animation
    from vaecli.runs.metrics import EpochMetrics
    from vaecli.terminal.preview import TrainingPreview
    from vaecli.training.plan import Plan


class Watch:
    """Shows what happens while a run is trained.

    Args:
        common: options.
        plan: of the run.
        path: its directory.
        device: where it is trained.
        animate: the file of the animation, or None.
    """

    def __init__(
        self, common: Common, plan: Plan, path: Path, device: torch.device, animate: Path | None
    ) -> None:
        self._common, self._plan, self._path, self._device = common, plan, path, device
        self._animate = animate
        self._film: Animation | None = None

    def show(self, events: Iterable[Event], last_words: str) -> EpochMetrics | None:
        """Follow a training to its end.

        Args:
            events: as `loop.train` yields them.
            last_words: what a signal leaves behind once everything that counts is saved.

        Returns:
            The metrics of the epoch that the weights are of.

        Raises:
            KeyboardInterrupt: it was stopped.
        """
        terminal, config = self._common.terminal, self._plan.config.training
        last = None
        data = self._plan.config.data
        n_train = config.fitted(data.n_train, data.n_validation)
        with training_view(terminal, config.epochs, n_train) as view:
            for event in events:
                match event:
                    case Started():
                        first_line = summary.introduction(
                            self._plan, self._path, event, self._device
                        )
                        terminal.prose(first_line)
                        view.start(event.epoch * n_train + event.images)
                        preview = self._start(event)
                        view.picture(preview.picture())
                    case Step():
                        view.step(event.epoch, event.images, event.distortion, event.rate)
                    case EpochEnd():
                        view.epoch(event.metrics)
                        view.picture(preview.picture())
                        self._add_frame(event.metrics.epoch, event.metrics.test_loss)
                    case Saved():
                        seen = f" and {event.images:,} images" if event.images else ""
                        terminal.detail(f"saved after {event.epoch} epochs{seen}")
                    case Notice():
                        terminal.warning(event.text)
                    case Stopped():
                        raise KeyboardInterrupt
                    case Finished():
                        view.picture(preview.picture(last=True))
                        last = event.metrics[event.epoch - 1]
                        if last.epoch < event.metrics[-1].epoch:
                            terminal.note(f"the weights are those of epoch {last.epoch}, the best")
                        self._write_film()
                        stop_flag.leave_with(last_words)  # pictures can be drawn again
        return last

    def _start(self, event: Started) -> TrainingPreview:
        from vaecli.data.labels import of_images
        from vaecli.model.vae import TorchRunner
        from vaecli.terminal.preview import ACROSS, TrainingPreview

        if self._animate is not None:
            from vaecli.pictures.animation import Animation

            self._film = Animation(TorchRunner(event.model), seed=self._plan.config.training.seed)
            self._add_frame(event.epoch, None)
            if event.epoch:
                self._common.terminal.warning(
                    f"{self._animate} starts at epoch {event.epoch}, where this run was continued"
                )
        shown = self._plan.dataset.test.first(ACROSS)
        labels = of_images(event.model.config, shown)
        runner = TorchRunner(event.model)
        return TrainingPreview(self._common.terminal, runner, next(shown.parts()), labels)

    def _add_frame(self, epoch: int, loss: float | None) -> None:
        if self._film is not None:
            title = f"epoch {epoch} of {self._plan.config.training.epochs}"
            self._film.add(title if loss is None else f"{title}   test loss {loss:.1f} nats")

    def _write_film(self) -> None:
        if self._film is not None and self._animate is not None:
            files.save(self._animate, self._film.encode())
            self._common.terminal.note(f"animation: {self._animate}")
