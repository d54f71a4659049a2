"""The option --prior, and the priors that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from vaecli.cli import options
from vaecli.cli.inputs import runner, torch_device
from vaecli.cli.options import option

if TYPE_CHECKING:
    from vaecli.config import ModelConfig
    from vaecli.data.labels import Labels
    from vaecli.evaluation.generation import Floats, Runner
    from vaecli.model.numpy_prior import Mixture
    from vaecli.runs.load import LoadedModel

Choice = Annotated[
    Literal["normal", "gmm"] | None,
    option(
        "normal, or gmm: a mixture of Gaussians, fitted once to the latents of the training images"
        " and kept in the run.",
        default="the model's own",
    ),
]


def better(model: ModelConfig) -> str:
    """What is said of draws from N(0, I) where another prior can be had: of a grid, if at all."""
    from vaecli.runs.fitted_prior import fittable

    choices = [f"--prior {name}" for name in fittable(model)] if model.arch == "grid" else []
    if not choices:
        return ""
    if "flow-matching" in choices[-1]:
        choices[-1] += ", which takes longest to fit,"
    return (
        "N(0, I), where neighbouring latents know nothing of each other; vaecli sample"
        f" {' or better '.join(choices)} draws pictures that hang together"
    )


def fitted(
    common: options.Common,
    loaded: LoadedModel,
    data: str | None = None,
    embedder: Runner | None = None,
) -> Mixture:
    """The mixture of a model, kept or fitted now.

    Args:
        common: options.
        loaded: the model.
        data: a set whose training images are to be used instead of the run's own.
        embedder: what encodes them; None for what is fastest.
    """
    from vaecli.training import fitted_prior

    with common.reading() as reading:
        return fitted_prior.of_model(
            loaded,
            reading,
            lambda count: embedder or runner(common, loaded, count),
            data=data,
            workers=common.threads,
            note=common.terminal.note,
        )


def flow(
    common: options.Common,
    loaded: LoadedModel,
    data: str | None,
    count: int,
    *,
    seed: int,
    labels: Labels | None,
) -> Floats:
    """Latents (count, L) drawn from the prior of a model by flow matching, kept or fitted now.

    Args:
        common: options.
        loaded: the model.
        data: as for `fitted`.
        count: how many.
        seed: of the draws.
        labels: places of their classes, (count,), where the model takes them.
    """
    from vaecli.training import flow_prior

    where = torch_device(common, loaded)
    with common.reading() as reading:
        prior = flow_prior.of_model(
            loaded,
            reading,
            lambda count: runner(common, loaded, count),
            where,
            data=data,
            note=common.terminal.note,
        )
        return prior.draw(count, seed=seed, labels=labels, progress=reading.progress)
