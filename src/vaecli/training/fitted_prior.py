"""The mixture of `--prior gmm`: the one kept in a run, or one that is fitted now."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecli.data import labels
from vaecli.data.reading import Reading
from vaecli.errors import UsageError, VaecliError
from vaecli.evaluation import latent_space, mixture
from vaecli.evaluation.generation import Runner
from vaecli.evaluation.latent_space import Embedding
from vaecli.model.numpy_prior import Mixture
from vaecli.runs import fitted_prior
from vaecli.runs.directory import Run
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
    if "gmm" not in (possible := fitted_prior.fittable(config)):
        other = "; vaecli sample also takes --prior flow-matching" * ("flow-matching" in possible)
        raise UsageError(
            f"--prior gmm: this model has {config.latents:,} latents, too many for a Gaussian with"
            f" a full covariance; it can have {fitted_prior.MAX_COVARIANCE:,}",
            f"Leave it out{other}.",
        )
    if run is not None and (kept := fitted_prior.read(run, loaded.weights)) is not None:
        note(f"prior: {_counted(kept.mixture)} kept in {run.path}")
        return kept.mixture
    given = embedded(loaded, reading, embedder, data)
    found = mixture.fit(
        given.embedding, seed=loaded.seed(None), workers=workers, progress=reading.progress
    )
    note(
        f"prior: {_counted(found.mixture)} fitted to {found.fitted:,} latents of {given.source};"
        f" chosen by {found.held_out:,} others"
    )
    keep(loaded, data, lambda run: fitted_prior.write(run, loaded.weights, found), note)
    return found.mixture


class Given(NamedTuple):
    """The latents of training images, the places of their classes, and what the images are."""

    embedding: Embedding
    labels: NDArray[np.int64] | None
    source: str


def embedded(
    loaded: LoadedModel,
    reading: Reading,
    embedder: Callable[[int], Runner],
    data: str | None,
) -> Given:
    """The training images of a model, encoded."""
    binarize, seed = loaded.binarize, loaded.seed(None)
    images, source = images_for_model.load(loaded, Choice(data, "train"), reading, binarize)
    step = -(-len(images) * loaded.config.latents // MAX_NUMBERS)
    if step > 1:
        images = images.take(np.arange(0, len(images), step))
    redraw_seed = seed if binarize == "dynamic" else None
    embedding = latent_space.embed(embedder(len(images)), images, redraw_seed, seed)
    return Given(embedding, labels.of_images(loaded.config, images), source)


def _counted(mixture: Mixture) -> str:
    count = len(mixture.weights)
    return "one Gaussian" if count == 1 else f"a mixture of {count} Gaussians"


def why_not_kept(loaded: LoadedModel, data: str | None) -> str:
    """Why a prior of these images cannot be kept, or nothing."""
    run = loaded.run
    if data is not None:
        return "--data names the images"
    if run is None:
        return f"{loaded.path} is no run directory"
    if not run.has_state:
        return f"{run.path} has no state/, by which it could be locked"
    return ""


def keep(loaded: LoadedModel, data: str | None, write: Callable[[Run], None], note: Report) -> None:
    """Keep a prior in its run, or say why it is not kept."""
    reason = why_not_kept(loaded, data)
    if not reason and loaded.run is not None:
        try:
            write(loaded.run)
        except VaecliError as error:
            reason = error.message
        except OSError as error:
            reason = str(error)
    if reason:
        note(f"prior: not kept, so that it is fitted each time: {reason}")
