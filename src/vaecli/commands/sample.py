"""`vaecli sample`: new images from the prior, or from given latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaecli.commands import options
from vaecli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_NAME = "samples.png"
DEFAULT_COUNT = 64
MAX_COUNT = 100_000


def sample(
    ctx: typer.Context,
    model: options.Model = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            "--num-samples",
            "-n",
            metavar="N",
            help=options.with_default("How many images.", DEFAULT_COUNT),
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help=options.with_default(
                "A .png grid, a folder (one file each), a .npy array of uint8 (N, C, H, W), or -"
                " for a grid on stdout.",
                DEFAULT_NAME,
            ),
        ),
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(metavar="N", help=options.with_default("Images in a row.", "a square grid")),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Standard deviation of the prior drawn from.")
    ] = 1.0,
    latents: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decode these latents instead: .npy of (N, L), or .csv with columns z0, z1, ...",
        ),
    ] = None,
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
    no_download: options.NoDownload = False,
) -> None:
    """Decode samples of the prior; prints the paths written.

    [bold]Examples[/bold]

    \b
      vaecli sample -n 64
      vaecli sample -n 1000 -o samples/
      vaecli sample --latents embeddings.csv -o decoded.png
    """
    common = options.Common.of(ctx)
    _check(num_samples, columns, temperature, latents, seed)
    if output == "-" and common.terminal.json:
        raise UsageError("--json and data on stdout contradict each other", "Name a file with -o.")

    from vaecli import generation, outputs
    from vaecli.commands.loading import load_model

    if output not in (None, "-") and not outputs.means_folder(str(output)):
        if Path(str(output)).suffix not in (".png", ".npy"):
            raise UsageError(f"--output {output}: neither .png, .npy nor a folder")
        outputs.require_new([Path(str(output))], force=common.force)
    loaded = load_model(common, model)
    if latents is None:
        images = generation.sample(
            loaded.model,
            DEFAULT_COUNT if num_samples is None else num_samples,
            seed=loaded.seed(seed),
            temperature=temperature,
        )
    else:
        from vaecli.latents import read_latents

        given = read_latents(latents, loaded.model.config.latent_dim)
        images = generation.decode(loaded.model, given.to(next(loaded.model.parameters()).device))
    _write(common, images.cpu(), output, columns)


def _check(
    count: int | None,
    columns: int | None,
    temperature: float,
    latents: Path | None,
    seed: int | None,
) -> None:
    options.require_at_least("--num-samples", count, 1)
    options.require_at_least("--columns", columns, 1)
    options.require_at_least("--seed", seed, 0)
    options.require_at_least("--temperature", temperature, 0)
    if temperature == float("inf"):
        raise UsageError("--temperature must be finite")
    if count is not None and count > MAX_COUNT:
        raise UsageError(f"--num-samples must be at most {MAX_COUNT:,}, not {count:,}")
    if latents is not None and count is not None:
        raise UsageError("--latents and --num-samples contradict each other", "Give one of them.")


def _write(common: options.Common, images: Tensor, output: str | None, columns: int | None) -> None:
    from vaecli import files, outputs, pictures

    if output is not None and output != "-" and outputs.means_folder(output):
        _write_folder(common, images, Path(output))
        return
    if output is not None and output.endswith(".npy"):
        data = pictures.encode_npy(images)
    else:
        data = pictures.encode_png(
            pictures.make_grid(images, columns=columns or pictures.square(len(images)))
        )
    if output == "-":
        common.terminal.bytes(data)
        return
    path = Path(output or DEFAULT_NAME)
    if output is None and not common.force:
        path = outputs.free_name(path)
    files.make_folder(path.parent)
    files.atomic_write(path, data)
    _tell(common, [path], len(images))


def _write_folder(common: options.Common, images: Tensor, folder: Path) -> None:
    from vaecli import files, outputs
    from vaecli.pictures import encode_png

    digits = max(3, len(str(len(images) - 1)))
    paths = [folder / f"sample-{index:0{digits}d}.png" for index in range(len(images))]
    outputs.require_new(paths, force=common.force)
    files.make_folder(folder)
    for path, image in zip(paths, images, strict=True):
        files.atomic_write(path, encode_png(image))
    _tell(common, paths, len(images))


def _tell(common: options.Common, paths: list[Path], count: int) -> None:
    if common.terminal.json:
        common.terminal.object({"outputs": [str(path) for path in paths], "n_images": count})
    else:
        for path in paths:
            common.terminal.data(str(path))
