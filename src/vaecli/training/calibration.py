"""What a finished run keeps of its held-out images, for alerts and heat maps."""

from __future__ import annotations

import numpy as np

from vaecli.config import TrainConfig
from vaecli.data.dataset import Images
from vaecli.evaluation import alerts, heatmap
from vaecli.evaluation.evaluate import Evaluation, evaluate
from vaecli.model.vae import VAE, TorchRunner
from vaecli.philox import derive_seed
from vaecli.runs.held_out import SCORES, HeldOut


def evaluated(model: VAE, images: Images, config: TrainConfig) -> Evaluation:
    """Judge images that the model was neither trained nor selected on: the test images.

    The noise is not that of `eval`, so that their scores and those of other images differ in
    nothing but the images.
    """
    seed = derive_seed(config.seed, "held-out")
    return evaluate(model, images, seed=seed, redraw=config.binarize == "dynamic")


def measured(model: VAE, images: Images, result: Evaluation, config: TrainConfig) -> HeldOut:
    """What is kept of these images and their evaluation."""
    return HeldOut(
        {name: np.sort(alerts.SCORES[name](result, images)) for name in SCORES},
        heatmap.measure(TorchRunner(model), images),
        config.binarize,
    )
