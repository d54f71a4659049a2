"""The prior of `--prior flow-matching`: the one kept in a run, or one that is fitted now."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vaecli.config import Precision
from vaecli.data.reading import Reading
from vaecli.errors import UsageError
from vaecli.evaluation.generation import Runner
from vaecli.model.flow_matching import FlowMatching
from vaecli.model.precision import cpu_has_bf16
from vaecli.runs import flow_prior
from vaecli.runs.fitted_prior import MAX_POSITIONS, fittable, positions
from vaecli.runs.load import LoadedModel
from vaecli.system.callbacks import Report
from vaecli.training import fitted_prior, flow_matching


def of_model(
    loaded: LoadedModel,
    reading: Reading,
    embedder: Callable[[int], Runner],
    device: torch.device,
    *,
    data: str | None = None,
    note: Report,
) -> FlowMatching:
    """The prior of a model by flow matching; one that is fitted is kept where that can be done.

    Args:
        loaded: the model.
        reading: how its images are read.
        embedder: called with the number of images for what encodes them.
        device: where the prior is fitted, and draws.
        data: a set whose training images are to be used instead of the run's own.
        note: called with what was done.

    Raises:
        UsageError: its latents lie at too many positions, or nothing says which images are its own.
        ModelError: the prior that is kept is damaged.
        DivergedError: nothing finite could be fitted.
    """
    if "flow-matching" not in fittable(loaded.config):
        raise UsageError(
            f"--prior flow-matching: the latents of this model lie at"
            f" {positions(loaded.config):,} positions; it can have {MAX_POSITIONS:,}",
            "Leave it out, or train on smaller images (--image-size).",
        )
    run = loaded.run if data is None else None
    if run is not None and (kept := flow_prior.read(run, loaded.weights)) is not None:
        note(f"prior: by flow matching, kept in {run.path}")
        return kept.to(device)
    given = fitted_prior.embedded(loaded, reading, embedder, data)
    reason = fitted_prior.why_not_kept(loaded, data)
    fate = f"not kept, since {reason}" if reason else f"then kept in {loaded.path}"
    note(f"prior: being fitted by flow matching to latents of {given.source}; {fate}")
    found = flow_matching.fit(
        given.embedding,
        given.labels,
        loaded.config,
        seed=loaded.seed(None),
        device=device,
        precision=_precision(loaded, device),
        progress=reading.progress,
        report=note,
    )
    by = f"{found.held_out:,} other images" if found.held_out else "the same image"
    note(
        f"prior: taught on {found.fitted:,} image{'s' * (found.fitted > 1)}; the weights after"
        f" {found.steps:,} steps, chosen by {by}"
    )
    if not reason:
        fitted_prior.keep(
            loaded, data, lambda run: flow_prior.write(run, loaded.weights, found), note
        )
    return found.prior


def _precision(loaded: LoadedModel, device: torch.device) -> Precision:
    """That of the training, where this machine has it too."""
    precision = "fp32" if loaded.run is None else loaded.run.config.training.precision
    if device.type != "cpu" or (precision == "bf16" and cpu_has_bf16()):
        return precision
    return "fp32"
