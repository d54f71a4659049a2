"""What a finished run keeps of its held-out images, for alerts and heat maps."""

from __future__ import annotations

import math

import numpy as np

from vaecli.config import TrainConfig
from vaecli.data.dataset import Images
from vaecli.evaluation import alerts, heatmap
from vaecli.evaluation.evaluate import Evaluation, evaluate
from vaecli.model.vae import VAE, TorchRunner
from vaecli.philox import derive_seed
from vaecli.runs.held_out import SCORES, HeldOut

SAMPLES = 16
"""K of the likelihoods that are kept."""
MOST_LIKELIHOODS = 1000
"""Held-out images whose likelihood is kept: it costs as much as the loss of ten times as many."""
MOST_BYTES = 1 << 28
"""Size of their pixels: fewer of them where they are large."""


def evaluated(
    model: VAE, images: Images, config: TrainConfig, importance_samples: int | None = None
) -> Evaluation:
    """Judge images that the model was neither trained nor selected on: the test images.

    The noise is not that of `eval`, so that their scores and those of other images differ in
    nothing but the images.
    """
    seed = derive_seed(config.seed, "held-out")
    return evaluate(
        model,
        images,
        seed=seed,
        redraw=config.binarize == "dynamic",
        importance_samples=importance_samples,
    )


def measured(model: VAE, images: Images, result: Evaluation, config: TrainConfig) -> HeldOut:
    """What is kept of these images and their evaluation."""
    most = MOST_BYTES // math.prod(model.config.image_shape)
    some = images.spread(min(MOST_LIKELIHOODS, most))
    judged = dict.fromkeys(SCORES, (result, images))
    judged["likelihood"] = evaluated(model, some, config, SAMPLES), some
    return HeldOut(
        {name: np.sort(alerts.SCORES[name](*judged[name])) for name in SCORES},
        SAMPLES,
        heatmap.measure(TorchRunner(model), images),
        config.binarize,
    )
