"""`vaecli export`: the model as one file for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vaecli.commands import options


def export(
    ctx: typer.Context,
    model: options.Model = None,
    format: Annotated[  # the option's name, fixed by the contract
        Literal["safetensors"],
        typer.Option("--format", help="safetensors: one file, its configuration in the header."),
    ] = "safetensors",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help=options.with_default("The file to write.", "RUN.safetensors here"),
        ),
    ] = None,
    force: options.Force = False,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    no_progress: options.NoProgress = False,
    device: options.Device = None,
    threads: options.Threads = None,
    seed: options.RunSeed = None,
) -> None:
    """Write a model as one file; prints its path.

    [bold]Examples[/bold]

    \b
      vaecli export
      vaecli export -m runs/001-mnist-mlp --format safetensors -o digits.safetensors
    """
    common = options.Common.of(ctx)

    from vaecli import files, outputs, weights
    from vaecli.commands.loading import load_model

    if output is not None:
        outputs.require_new([output], force=common.force)
    loaded = load_model(common, model)
    if output is None:
        default = Path(f"{loaded.path.resolve().name.removesuffix('.safetensors')}.safetensors")
        output = default if common.force else outputs.free_name(default)
    data = weights.encode_model(loaded.model.config, loaded.model.state_dict())
    files.make_folder(output.parent)
    files.atomic_write(output, data)
    common.terminal.note(
        f"{len(data):,} bytes; load it with vaecli -m {output}, or with the safetensors library"
    )
    if common.terminal.json:
        common.terminal.object(
            {
                "output": str(output),
                "format": format,
                "bytes": len(data),
                "sha256": files.sha256(data),
            }
        )
    else:
        common.terminal.data(str(output))
