"""The mixture of `--prior gmm`: the one kept in a run, or one that is fitted now."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vaecli.data.reading import Reading
from vaecli.errors import UsageError, VaecliError
from vaecli.evaluation import latent_space, mixture
from vaecli.evaluation.generation import Runner
from vaecli.model.numpy_prior import Mixture
from vaecli.runs import fitted_prior as kept
from vaecli.runs.fitted_prior import FittedPrior
from vaecli.runs.load import LoadedModel
from vaecli.system.callbacks import Report
from vaecli.training import images_for_model
from vaecli.training.images_for_model import Choice

MAX_NUMBERS = 1 << 26
"""Latents held at once, of all images together; of more, evenly spaced images are taken."""


def of_model(
    loaded: LoadedModel,
    reading: Reading,
    embedder: Callable[[int], Runner],
    *,
    data: str | None = None,
    workers: int | None = None,
    note: Report,
) -> Mixture:
    """The mixture of a model; one that is fitted is kept where that can be done, with a note.

    Args:
        loaded: the model.
        reading: how its images are read.
        embedder: called with the number of images for what encodes them.
        data: a set whose training images are to be used instead of the run's own.
        workers: threads; None for one on each core.
        note: called with what was done.

    Raises:
        UsageError: the model has too many latents, or nothing says which images are its own.
        ModelError: the mixture that is kept is damaged.
    """
    config, run = loaded.config, loaded.run if data is None else None
    if not kept.can_be_fitted(config):
        raise UsageError(
            f"--prior gmm: this model has {config.latents:,} latents, too many for a Gaussian with"
            f" a full covariance; it can have {kept.MAX_COVARIANCE:,}",
            "Leave it out.",
        )
    if run is not None and (found := kept.read(run, loaded.weights)) is not None:
        note(f"prior: {_counted(found.mixture)} kept in {run.path}")
        return found.mixture
    fitted = _fit(loaded, reading, embedder, data, workers, note)
    if reason := _keep(loaded, fitted, data):
        note(f"prior: not kept, so that it is fitted each time: {reason}")
    return fitted.mixture


def _fit(
    loaded: LoadedModel,
    reading: Reading,
    embedder: Callable[[int], Runner],
    data: str | None,
    workers: int | None,
    note: Report,
) -> FittedPrior:
    binarize, seed = loaded.binarize, loaded.seed(None)
    images, source = images_for_model.load(loaded, Choice(data, "train"), reading, binarize)
    step = -(-len(images) * loaded.config.latents // MAX_NUMBERS)
    if step > 1:
        images = images.take(np.arange(0, len(images), step))
    redraw_seed = seed if binarize == "dynamic" else None
    embedding = latent_space.embed(embedder(len(images)), images, redraw_seed, seed)
    found = mixture.fit(embedding, seed=seed, workers=workers, progress=reading.progress)
    note(
        f"prior: {_counted(found.mixture)} fitted to {found.fitted:,} latents of {source};"
        f" chosen by {found.held_out:,} others"
    )
    return found


def _counted(mixture: Mixture) -> str:
    count = len(mixture.weights)
    return "one Gaussian" if count == 1 else f"a mixture of {count} Gaussians"


def _keep(loaded: LoadedModel, fitted: FittedPrior, data: str | None) -> str:
    """Keep it in its run; why it is not kept, or nothing."""
    run = loaded.run
    if data is not None:
        return "--data names the images"
    if run is None:
        return f"{loaded.path} is no run directory"
    if not run.has_state:
        return f"{run.path} has no state/, by which it could be locked"
    try:
        kept.write(run, loaded.weights, fitted)
    except VaecliError as error:
        return error.message
    except OSError as error:
        return str(error)
    return ""
