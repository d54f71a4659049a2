"""`vaecli eval`: how good a model is, in nats per image."""

from __future__ import annotations

from typing import Annotated

import typer

from vaecli.commands import options


def evaluate(
    ctx: typer.Context,
    model: options.Model = None,
    data: options.EvalData = None,
    split: options.Split = None,
    limit: options.Limit = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N",
            help="Images per pass; changes speed and memory, not the numbers.",
        ),
    ] = 256,
    seed: options.RunSeed = None,
    force: options.Force = False,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    no_progress: options.NoProgress = False,
    device: options.Device = None,
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    no_download: options.NoDownload = False,
) -> None:
    """Judge a model: loss, distortion and rate in nats per image.

    [bold]Examples[/bold]

    \b
      vaecli eval
      vaecli eval -m runs/001-mnist-mlp --json
      vaecli eval -d fashion-mnist
    """
    common = options.Common.of(ctx)
    options.require_at_least("--batch-size", batch_size, 1)
    options.require_at_least("--limit", limit, 1)
    options.require_at_least("--seed", seed, 0)

    from vaecli import evaluation
    from vaecli.commands.loading import load_images, load_model

    loaded = load_model(common, model)
    images, source = load_images(common, loaded, data, split, limit)
    result = evaluation.evaluate(
        loaded.model, images, seed=loaded.seed(seed), batch_size=batch_size
    )
    protocol = f"{evaluation.protocol(loaded.model.config)} One noise sample per image; {source}."
    value = {
        "loss": result.loss,
        "elbo": result.elbo,
        "distortion": result.distortion,
        "rate": result.rate,
        "active_units": result.active_units,
        "kl_per_dim": result.kl_per_dim,
        "n_images": result.n_images,
        "protocol": protocol,
    }
    texts = {
        "loss": f"{result.loss:.4f}",
        "elbo": f"{result.elbo:.4f}",
        "distortion": f"{result.distortion:.4f}",
        "rate": f"{result.rate:.4f}",
        "active_units": f"{result.active_units}",
        "kl_per_dim": " ".join(f"{kl:.2f}" for kl in result.kl_per_dim),
        "n_images": f"{result.n_images}",
        "protocol": protocol,
    }
    common.terminal.values(value, texts)
