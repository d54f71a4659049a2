"""Early stopping for --patience, and the best weights, which it keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vaecli.config import TrainConfig
from vaecli.data.dataset import Dataset, Images
from vaecli.model.vae import VAE
from vaecli.runs.metrics import EpochMetrics


def watched_split(dataset: Dataset, config: TrainConfig) -> tuple[Images, Images]:
    """The images to train on, and those whose loss patience watches.

    These are the validation split of the data, or else a part of the training images.
    """
    if dataset.validation is not None:
        return dataset.train, dataset.validation
    return dataset.train.split(config.fitted(len(dataset.train)))


class Best:
    """The weights of the epoch with the lowest held-out loss; none without --patience.

    Args:
        model: whose weights they are.
        patience: epochs to wait for a better one, or 0.
    """

    def __init__(self, model: VAE, patience: int) -> None:
        self._model, self._patience = model, patience
        self.weights = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if patience
        }

    @torch.no_grad()
    def epoch(self, rows: Sequence[EpochMetrics], best_epoch: int) -> int:
        """The best epoch after the last of `rows`, the earliest of equals; keeps its weights.

        Args:
            rows: the metrics of all epochs so far.
            best_epoch: the best of those before the last, from 1; 0 for none.
        """
        row = rows[-1]
        if row.held_out_loss is None:
            return 0
        best = rows[best_epoch - 1] if best_epoch else None
        if best is not None and row.held_out_loss >= (best.held_out_loss or 0.0):
            return best.epoch
        for name, parameter in self._model.named_parameters():
            self.weights[name].copy_(parameter)
        return row.epoch

    def waited_enough(self, epoch: int, best_epoch: int) -> bool:
        """Whether training stops after `epoch`."""
        return bool(self._patience) and epoch - best_epoch >= self._patience

    def model(self, best_epoch: int) -> VAE:
        """The model the user gets: that of the best epoch, or the current one where none is."""
        if not best_epoch:
            return self._model
        with torch.device("meta"):
            model = VAE(self._model.config)
        model.load_state_dict(self.weights, assign=True)
        return model
