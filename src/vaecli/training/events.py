"""The events that training yields, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vaecli.runs.metrics import EpochMetrics

if TYPE_CHECKING:
    from vaecli.model.vae import VAE


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on after `epoch` whole epochs and `images` of the next.

    `model` is the model itself, which every step changes: look at it, do not touch it.
    """

    epochs: int
    n_train: int
    n_test: int
    parameters: int
    epoch: int
    images: int
    model: VAE = field(repr=False, compare=False)


@dataclass(frozen=True)
class Step:
    """Progress within an epoch: `images` seen so far, the terms of their mean loss in nats."""

    epoch: int
    images: int
    distortion: float
    rate: float

    @property
    def loss(self) -> float:
        """Distortion + rate, nats per image."""
        return self.distortion + self.rate


@dataclass(frozen=True)
class EpochEnd:
    """An epoch and its test pass are done."""

    metrics: EpochMetrics


@dataclass(frozen=True)
class Notice:
    """Something a person should read."""

    text: str


@dataclass(frozen=True)
class Saved:
    """The state was committed; nothing before this point can be lost."""

    epoch: int
    images: int


@dataclass(frozen=True)
class Stopped:
    """`should_stop` said so: the state is committed and training ends early."""

    epoch: int
    images: int


@dataclass(frozen=True)
class Finished:
    """Weights and metrics are safe on disk; the weights are those of `epoch`."""

    path: Path
    metrics: tuple[EpochMetrics, ...]
    epoch: int


@dataclass(frozen=True)
class Drawn:
    """Pictures and the model card are written too; the last event."""

    files: tuple[Path, ...]


Event = Started | Step | EpochEnd | Notice | Saved | Stopped | Finished | Drawn
