"""The option --prior, and the priors that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from vaecli.cli import options
from vaecli.cli.inputs import in_torch, runner
from vaecli.cli.options import option

if TYPE_CHECKING:
    from vaecli.evaluation.generation import Runner
    from vaecli.model.flow_matching import FlowMatching
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


def flow(common: options.Common, loaded: LoadedModel, data: str | None = None) -> FlowMatching:
    """The prior of a model by flow matching, kept or fitted now; arguments as for `fitted`."""
    from vaecli.training import flow_prior

    model = in_torch(common, loaded)
    with common.reading() as reading:
        return flow_prior.of_model(loaded, reading, model, data=data, note=common.terminal.note)
