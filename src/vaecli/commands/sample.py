"""`vaecli sample`: new images from a prior or given latents, and walks between latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vaecli.commands import options
from vaecli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vaecli.commands.walks import Images2D
    from vaecli.run import LoadedModel

DEFAULT_NAME = "samples.png"
DEFAULT_COUNT = 64
MAX_COUNT = 100_000
MAX_STEPS = 1_000
WALKS = "Walks through the latent space"
FRAME_MILLISECONDS, HOLD_MILLISECONDS = 80, 600


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
                " for a grid on stdout; with --interpolate also a .gif, there and back.",
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
    prior: Annotated[
        Literal["normal", "gmm"],
        typer.Option(
            help="gmm first fits a mixture of Gaussians to the latents of the training images;"
            " needs vaecli\\[gmm]."
        ),
    ] = "normal",
    latents: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decode these latents instead: .npy of (N, L), or .csv with columns z0, z1, ...",
        ),
    ] = None,
    interpolate: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="From one image to another, each an image file or the index of a test image.",
            rich_help_panel=WALKS,
        ),
    ] = None,
    path: Annotated[
        Literal["spherical", "linear"],
        typer.Option(
            help="The way --interpolate takes; spherical keeps to lengths the prior makes likely.",
            rich_help_panel=WALKS,
        ),
    ] = "spherical",
    traverse: Annotated[
        bool,
        typer.Option(
            "--traverse",
            help="One row per latent dimension, from -3 to 3 standard deviations; largest KL"
            " first, collapsed ones marked.",
            rich_help_panel=WALKS,
        ),
    ] = False,
    around: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help=options.with_default(
                "The image file or test index --traverse starts from.", "latents of 0"
            ),
            rich_help_panel=WALKS,
        ),
    ] = None,
    manifold: Annotated[
        bool,
        typer.Option(
            "--manifold",
            help="A grid through the two dimensions of the largest KL, at normal quantiles.",
            rich_help_panel=WALKS,
        ),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default(
                "Images from A to B, in a row of --traverse, or along each side of --manifold.",
                "8, 13, 20",
            ),
            rich_help_panel=WALKS,
        ),
    ] = None,
    data: options.EvalData = None,
    seed: options.RunSeed = None,
    preview: options.Preview = None,
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
    """Decode samples of the prior, or walk through the latent space; prints the paths written.

    [bold]Examples[/bold]

    \b
      vaecli sample -n 64
      vaecli sample -n 1000 -o samples/
      vaecli sample --prior gmm -o better.png
      vaecli sample --interpolate 0 1 --steps 24 -o morph.gif
      vaecli sample --traverse --around 0 -o traversal.png
      vaecli sample --latents embeddings.csv -o decoded.png
    """
    common = options.Common.of(ctx)
    _check(ctx.params)
    if output == "-" and common.terminal.json:
        raise UsageError("--json and data on stdout contradict each other", "Name a file with -o.")
    _check_output(output, force=common.force, gif=interpolate is not None)
    if prior == "gmm":
        from vaecli import extras

        extras.require("gmm", "--prior gmm")

    from vaecli.commands.loading import load_model
    from vaecli.commands.walks import Walker

    loaded = load_model(common, model)
    walker = Walker(common, loaded, data)
    if interpolate is not None:
        result = walker.interpolate(*interpolate, steps=steps, path=path, columns=columns)
    elif traverse:
        result = walker.traverse(around=around, steps=steps)
    elif manifold:
        result = walker.manifold(side=steps)
    else:
        chosen = _latents(common, loaded, ctx.params)
        result = _grid(loaded, chosen, columns)
    _write(common, result, output)
    _preview(common, result)


def _latents(common: options.Common, loaded: LoadedModel, given: dict[str, Any]) -> Tensor:
    """The latents (N, L) to decode: read from a file, or drawn from a prior."""
    from vaecli import generation

    latent_dim, seed = loaded.model.config.latent_dim, loaded.seed(given["seed"])
    count = given["num_samples"] or DEFAULT_COUNT
    if given["latents"] is not None:
        from vaecli.latents import read_latents

        return read_latents(Path(given["latents"]), latent_dim)
    if given["prior"] == "normal":
        return generation.draw(loaded.model, count, seed=seed, temperature=given["temperature"])
    from vaecli import latent_space, mixture
    from vaecli.commands.loading import load_images, trained_binarize, trained_levels

    binarize = trained_binarize(loaded)
    images, source = load_images(common, loaded, given["data"], "train", None, binarize)
    embedding = latent_space.embed(loaded.model, images.pixels, trained_levels(loaded, seed))
    fitted = mixture.fit(embedding, seed=seed)
    common.terminal.note(
        f"prior: {len(fitted.weights)} Gaussians fitted to {len(images):,} latents of {source}"
    )
    if not fitted.converged:
        common.terminal.warning("the mixture did not converge; it is used as it is")
    return fitted.sample(count, seed=seed, temperature=given["temperature"])


def _grid(loaded: LoadedModel, latents: Tensor, columns: int | None) -> Images2D:
    from vaecli import generation, pictures
    from vaecli.commands.walks import Images2D

    device = next(loaded.model.parameters()).device
    pixels = generation.decode(loaded.model, latents.to(device)).cpu()
    columns = columns or pictures.square(len(pixels))
    return Images2D(pixels, pictures.make_grid(pixels, columns=columns), columns)


def _check(given: dict[str, Any]) -> None:
    """Refuse bad values and options that contradict each other."""
    options.require_at_least("--num-samples", given["num_samples"], 1)
    options.require_at_least("--columns", given["columns"], 1)
    options.require_at_least("--seed", given["seed"], 0)
    options.require_at_least("--steps", given["steps"], 2)
    options.require_at_least("--temperature", given["temperature"], 0)
    if given["temperature"] == float("inf"):
        raise UsageError("--temperature must be finite")
    for name, most in (("num_samples", MAX_COUNT), ("steps", MAX_STEPS)):
        if given[name] is not None and given[name] > most:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} must be at most {most:,}, not {given[name]:,}")
    modes = [name for name in ("latents", "interpolate", "traverse", "manifold") if given[name]]
    changed = {
        "--num-samples": given["num_samples"] is not None,
        "--temperature": given["temperature"] != 1,
        "--prior": given["prior"] != "normal",
        "--columns": given["columns"] is not None,
        "--steps": given["steps"] is not None,
        "--path": given["path"] != "spherical",
        "--around": given["around"] is not None,
    }
    drawing = {"--num-samples", "--temperature", "--prior", "--columns"}
    allowed = {
        None: drawing,
        "latents": {"--columns"},
        "interpolate": {"--steps", "--path", "--columns"},
        "traverse": {"--steps", "--around"},
        "manifold": {"--steps"},
    }
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} contradict each other", "Give one.")
    mode = modes[0] if modes else None
    for option, given_here in changed.items():
        if given_here and option not in allowed[mode]:
            if mode is None:
                raise UsageError(f"{option} is for walks", "Add --interpolate or --traverse.")
            raise UsageError(f"--{mode} and {option} contradict each other", "Give one of them.")


def _check_output(output: str | None, *, force: bool, gif: bool) -> None:
    from vaecli import outputs

    if output in (None, "-") or outputs.means_folder(str(output)):
        return
    path = Path(str(output))
    if path.suffix == ".gif" and not gif:
        raise UsageError(f"--output {output}: only --interpolate moves", "Name a .png file.")
    if path.suffix not in (".png", ".npy", ".gif"):
        raise UsageError(f"--output {output}: neither .png, .npy nor a folder")
    outputs.require_new([path], force=force)


def _write(common: options.Common, result: Images2D, output: str | None) -> None:
    from vaecli import files, outputs, pictures

    if output is not None and output != "-" and outputs.means_folder(output):
        _write_folder(common, result.pixels, Path(output))
        return
    suffix = "" if output in (None, "-") else Path(str(output)).suffix
    if suffix == ".npy":
        data = pictures.encode_npy(result.pixels)
    elif suffix == ".gif":
        data = _animation(result.pixels)
    else:
        data = pictures.encode_png(result.picture)
    if output == "-":
        common.terminal.bytes(data)
        return
    path = Path(output or DEFAULT_NAME)
    if output is None and not common.force:
        path = outputs.free_name(path)
    files.make_folder(path.parent)
    files.atomic_write(path, data)
    _tell(common, [path], len(result.pixels))


def _animation(pixels: Tensor) -> bytes:
    """There and back, staying a while at either end."""
    from vaecli import pictures

    frames = [pictures.make_grid(image[None], columns=1, scale=6, gap=0) for image in pixels]
    return pictures.encode_gif(
        frames,
        milliseconds=FRAME_MILLISECONDS,
        hold=HOLD_MILLISECONDS,
        there_and_back=True,
    )


def _preview(common: options.Common, result: Images2D) -> None:
    from vaecli.commands import preview

    preview.show_grid(common.terminal, result.pixels, result.columns)


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
