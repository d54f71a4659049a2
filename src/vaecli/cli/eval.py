"""`vaecli eval`: how good a model is, in nats per image."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaecli.cli import fitted_prior, options
from vaecli.cli.alerts import Alerts
from vaecli.cli.compare_models import Question, compare
from vaecli.cli.embeddings import Embeddings
from vaecli.cli.options import option
from vaecli.cli.outputs import STDOUT, require_new_file
from vaecli.config import Binarize
from vaecli.errors import EnvironmentFailure, ExitCode, UsageError
from vaecli.system import extras, files, numpy_threads
from vaecli.training.settings import BINARIZE_HELP

if TYPE_CHECKING:
    from vaecli.data.dataset import Images
    from vaecli.evaluation.alerts import Verdicts
    from vaecli.evaluation.evaluate import Evaluation
    from vaecli.runs.load import LoadedModel

FORMATS = (".csv", ".jsonl", ".parquet")
LISTED = 32
"""Latents whose KL is listed; a grid has a thousand and more."""
GROUP = "{height}x{width} {active_units:,} of {latents:,} active, {rate:.2f} nats"
"""What is said of a level of a grid's latents."""


def evaluate(
    *,
    model: options.Models = None,
    data: options.EvalData = None,
    split: options.Split = None,
    limit: options.Limit = None,
    skip_bad: options.SkipBad = None,
    batch_size: Annotated[
        int,
        option(
            "Images per pass; changes speed and memory, not the numbers.",
            "--batch-size",
            "-b",
            metavar="N",
        ),
    ] = 256,
    importance_samples: Annotated[
        int | None,
        option(
            "Estimate the negative log-likelihood too, from K samples per image.",
            default="not done",
            metavar="K",
        ),
    ] = None,
    prior: fitted_prior.Choice = None,
    binarize: Annotated[Binarize | None, option(BINARIZE_HELP, default="as in training")] = None,
    per_image: Annotated[
        str | None,
        option(
            "Write loss, distortion and rate of each image: .csv, .jsonl or .parquet; - is stdout.",
            metavar="FILE",
            parser=options.home_text,
            panel=options.OUTPUT,
        ),
    ] = None,
    latents: Annotated[
        bool,
        option(
            "With --per-image: also the mean of q(z|x), as z0, z1, ...",
            "--latents",
            panel=options.OUTPUT,
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        option(
            "Draw the latent space: the images in two dimensions, and the KL of each.",
            metavar="FILE.png",
            parser=options.home_path,
            panel=options.OUTPUT,
        ),
    ] = None,
    alerts: Alerts,
    embeddings: Embeddings,
    seed: options.RunSeed = None,
    common: options.Common,
) -> None:
    """Judge a model: loss, distortion and rate in nats per image.

    [bold]Examples[/bold]
      vaecli eval
      vaecli eval -m runs/001-mnist-mlp --json
      vaecli eval -m runs/001-mnist-mlp -m runs/002-mnist-mlp
      vaecli eval --importance-samples 5000
      vaecli eval --prior gmm
      vaecli eval --plot latents.png
      vaecli eval -d fashion-mnist --per-image scores.csv --latents
      vaecli eval -d photos --clusters 8 --neighbours 5
      vaecli eval -d suspects --alert-rate 0.01 --fail-on-alert
    """
    if prior == "gmm":
        numpy_threads.import_numpy()  # fitting it works in threads itself
    options.require_at_least("--batch-size", batch_size, 1)
    options.require_at_least("--limit", limit, 1)
    options.require_at_least("--seed", seed, 0)
    options.require_at_least("--importance-samples", importance_samples, 1)
    alerts.check()
    embeddings.check(common, plot)
    _check_output(common, per_image, latents)
    if plot is not None:
        require_new_file("--plot", plot, ".png", force=common.force)

    question = Question(
        data, split, limit, bool(skip_bad), binarize, batch_size, importance_samples, seed, prior
    )
    if model is not None and len(model) > 1:
        for name, given in (
            ("--per-image", per_image),
            ("--plot", plot),
            ("--alert-rate", alerts.alert_rate),
            *embeddings.given.items(),
        ):
            if given is not None:
                raise UsageError(f"{name} is for one model", "Leave it out, or give one -m.")
        compare(common, model, question, lambda *case: _judged(common, *case)[0])
        return

    from vaecli.cli.inputs import load_images, load_model
    from vaecli.evaluation.alerts import HeldOutScores
    from vaecli.runs.fitted_prior import require_replaceable
    from vaecli.training import images_for_model

    loaded = load_model(common, None if model is None else model[0])
    require_replaceable(loaded.config, prior)
    binarize = images_for_model.binarization(loaded, binarize)
    known = None
    if alerts.alert_rate is not None:
        known = HeldOutScores.of(
            loaded, alerts.alert_rate, alerts.score or "loss", binarize, prior, importance_samples
        )
        question = replace(question, importance_samples=known.importance_samples)
    images, source = load_images(common, loaded, data, split, limit, binarize, bool(skip_bad))
    embeddings.require_enough(len(images))
    value, result = _judged(common, loaded, images, source, question)
    verdicts = None if known is None else known.judge(result, images)
    if verdicts is not None:
        value |= verdicts.values()
        value["protocol"] += verdicts.protocol()
    if per_image is not None:
        _write_scores(common, result, images, per_image, latents, verdicts)
    embeddings.write(common, result, images, loaded.seed(seed))
    if plot is not None:
        from vaecli.pictures import plots

        seen = embeddings.plane(result, loaded.seed(seed))
        files.save(plot, plots.latents(result, images.labels, source=source, seen=seen))
        common.terminal.note(f"latent space: {plot}")
    if per_image == STDOUT:
        for name, text in _texts(value).items():
            common.terminal.note(f"{name}: {text}")
    else:
        common.terminal.values(value, _texts(value))
    if verdicts is not None:
        for line in verdicts.warnings(images):
            common.terminal.warning(line)
        if alerts.fail_on_alert and len(verdicts.alerts):
            raise typer.Exit(ExitCode.ALERT)


def _judged(
    common: options.Common, loaded: LoadedModel, images: Images, source: str, question: Question
) -> tuple[dict[str, Any], Evaluation]:
    """What is told of the images, and the evaluation itself."""
    from vaecli.cli.inputs import in_torch
    from vaecli.evaluation import evaluate as evaluation
    from vaecli.model.prior import FullMixture
    from vaecli.model.vae import TorchRunner
    from vaecli.training import images_for_model

    binarize = images_for_model.binarization(loaded, question.binarize)
    samples = question.importance_samples
    network, prior = in_torch(common, loaded), None
    if question.prior == "gmm":
        data, embedder = question.data if loaded.run is None else None, TorchRunner(network)
        prior = FullMixture(fitted_prior.fitted(common, loaded, data, embedder))
    with common.terminal.working() as work:
        result = evaluation.evaluate(
            network,
            images.to(network.device),
            seed=loaded.seed(question.seed),
            batch_size=question.batch_size,
            redraw=binarize == "dynamic",
            importance_samples=samples,
            prior=prior,
            progress=work,
        )
    value = _measured(result) | _meaning(loaded.config, images, binarize, result)
    if loaded.config.arch == "grid":
        value["groups"] = evaluation.groups(result, loaded.config)
    value["protocol"] = _protocol(loaded.config, binarize, source, samples, result.prior)
    return value, result


def _measured(result: Evaluation) -> dict[str, Any]:
    value: dict[str, Any] = {
        "loss": result.loss,
        "elbo": result.elbo,
        "distortion": result.distortion,
        "rate": result.rate,
        "prior": result.prior,
        "active_units": result.active_units,
        "kl_per_dim": result.kl_per_dim,
        "n_images": result.n_images,
    }
    if result.losses_normal is not None:
        value["loss_normal"] = float(result.losses_normal.mean())
    if result.likelihoods is not None:
        value |= {
            "importance_samples": result.likelihoods.samples,
            "nll": result.nll,
            "nll_se": result.nll_se,
            "ess": result.ess,
        }
        if result.likelihoods.nll_normal is not None:
            value["nll_normal"] = float(result.likelihoods.nll_normal.mean())
    return value


def _meaning(model: Any, images: Any, binarize: Binarize, result: Evaluation) -> dict[str, Any]:
    """What the loss may be held against: its floor, or bits per dimension."""
    from vaecli.evaluation import units

    value: dict[str, Any] = {"condition": model.condition} if model.classes else {}
    if units.is_grey(model, binarize):
        value["entropy_floor"] = units.entropy_floor(images)
    if units.has_levels(model):
        value["bits_per_dim"] = units.bits_per_dim(result.loss, model.pixels)
        if result.likelihoods is not None:
            value["nll_bits_per_dim"] = units.bits_per_dim(result.nll, model.pixels)
    return value


def _protocol(model: Any, binarize: Binarize, source: str, samples: int | None, prior: str) -> str:
    from vaecli.evaluation import units

    estimate = ""
    if samples is not None:
        estimate = (
            f" nll: importance-weighted bound of {samples:,} samples per image, nll_se its"
            " standard error over the images, ess the mean effective number of samples."
        )
    what = f"{units.describe(model, binarize)} One noise sample per image; {source}."
    return f"{what}{estimate}{units.about_prior(prior)}"


def _texts(value: dict[str, Any]) -> dict[str, str]:
    texts = {}
    for name, item in value.items():
        if name == "kl_per_dim":
            shown = item if len(item) <= LISTED else sorted(item, reverse=True)[:LISTED]
            more = f" (the largest of {len(item):,})" if len(item) > LISTED else ""
            texts[name] = " ".join(f"{kl:.2f}" for kl in shown) + more
        elif name == "groups":
            texts[name] = "; ".join(GROUP.format_map(group) for group in item)
        else:
            digits = "g" if name == "alert_rate" else ".4f"
            texts[name] = f"{item:{digits}}" if isinstance(item, float) else str(item)
    return texts


def _check_output(common: options.Common, per_image: str | None, latents: bool) -> None:
    """Refuse what cannot be written before any work is done."""
    if per_image is None:
        if latents:
            raise UsageError("--latents needs --per-image", "Name a file with --per-image.")
        return
    if per_image == STDOUT:
        if common.terminal.json:
            raise UsageError(
                "--json and --per-image - both write to stdout", "Name a file with --per-image."
            )
        return
    path = Path(per_image)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--per-image {per_image}: its name must end in .csv, .jsonl or .parquet",
            "The suffix selects the format.",
        )
    if path.suffix.lower() == ".parquet":
        extras.require("hub", f"--per-image {per_image}", ("pyarrow",))
    files.require_new([path], force=common.force)
    if not os.access(path.parent, os.W_OK):
        raise EnvironmentFailure(
            f"--per-image {per_image}: its folder cannot be written", "Name another folder."
        )


def _write_scores(
    common: options.Common,
    result: Evaluation,
    images: Images,
    target: str,
    latents: bool,
    verdicts: Verdicts | None,
) -> None:
    from vaecli.evaluation import scores

    columns = scores.columns(result, images, latents=latents)
    if verdicts is not None:
        columns |= verdicts.columns()
    if target == STDOUT:
        common.terminal.data(scores.as_csv(scores.rows(columns)).rstrip("\n"))
        return
    match Path(target).suffix.lower():
        case ".parquet":
            data = scores.as_parquet(columns)
        case ".jsonl":
            data = scores.as_jsonl(scores.rows(columns)).encode()
        case _:
            data = scores.as_csv(scores.rows(columns)).encode()
    files.atomic_write(Path(target), data)
    common.terminal.note(f"scores: {target}")
