"""The prior of `--prior flow-matching`: the one kept in a run, or one that is fitted now."""

from __future__ import annotations

from vaecli.data.reading import Reading
from vaecli.model.flow_matching import FlowMatching
from vaecli.model.precision import cpu_has_bf16
from vaecli.model.vae import VAE, TorchRunner
from vaecli.runs import flow_prior
from vaecli.runs.load import LoadedModel
from vaecli.system.callbacks import Report
from vaecli.training import fitted_prior, flow_matching


def of_model(
    loaded: LoadedModel,
    reading: Reading,
    model: VAE,
    *,
    data: str | None = None,
    note: Report,
) -> FlowMatching:
    """The prior of a model by flow matching, on the model's device; kept or fitted now.

    Args:
        loaded: the model.
        reading: how its images are read.
        model: the same in torch, on the device where all is computed.
        data: a set whose training images are to be used instead of the run's own.
        note: called with what was done.

    Raises:
        UsageError: nothing says which images are its own.
        ModelError: the prior that is kept is damaged.
    """
    run = loaded.run if data is None else None
    if run is not None and (kept := flow_prior.read(run, loaded.weights)) is not None:
        note(f"prior: by flow matching, kept in {run.path}")
        kept.field.to(model.device)
        return kept
    given = fitted_prior.embedded(loaded, reading, lambda _: TorchRunner(model), data)
    precision = "fp32" if loaded.run is None else loaded.run.config.training.precision
    if model.device.type == "cpu" and not (precision == "bf16" and cpu_has_bf16()):
        precision = "fp32"  # this may be another machine than that of the training
    note(f"prior: fitted by flow matching to the latents of {given.source}, once")
    found = flow_matching.fit(
        given.embedding,
        given.labels,
        loaded.config,
        seed=loaded.seed(None),
        device=model.device,
        precision=precision,
        progress=reading.progress,
        report=note,
    )
    note(
        f"prior: taught on {found.fitted:,} images; the weights after {found.steps:,} steps,"
        f" chosen by {found.held_out:,} other images"
    )
    fitted_prior.keep(loaded, data, lambda run: flow_prior.write(run, loaded.weights, found), note)
    return found.prior
