"""`vaecli sample`: new images from a prior or given latents, and walks between latents."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vaecli.cli import fitted_prior, options, outputs
from vaecli.cli.options import option
from vaecli.config import option_name
from vaecli.errors import UsageError
from vaecli.system import files, numpy_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaecli.cli.walks import Images2D
    from vaecli.data.dataset import Bytes
    from vaecli.evaluation.generation import Runner
    from vaecli.runs.load import LoadedModel

DEFAULT_NAME = "samples.png"
SUFFIXES = (".png", ".npy", ".gif")
DEFAULT_COUNT = 64
MAX_COUNT = 100_000
MAX_STEPS = 1_000
WALKS = "Walks through the latent space"
FRAME_MILLISECONDS, HOLD_MILLISECONDS = 80, 600


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to sample, and where to write it."""

    num_samples: Annotated[
        int | None,
        option("How many images.", "--num-samples", "-n", default=DEFAULT_COUNT, metavar="N"),
    ] = None
    output: Annotated[
        str | None,
        option(
            "A .png grid, a folder (one file each), a .npy array of uint8 (N, C, H, W), or -"
            " for a grid on stdout; with --interpolate also a .gif, there and back.",
            "--output",
            "-o",
            default=DEFAULT_NAME,
            metavar="OUT",
            parser=options.home_text,
        ),
    ] = None
    columns: Annotated[
        int | None, option("Images in a row.", default="a square grid", metavar="N")
    ] = None
    temperature: Annotated[float, option("Spread of the draws of the prior.", metavar="T")] = 1.0
    prior: fitted_prior.Choice = None
    latents: Annotated[
        Path | None,
        option(
            "Decode these latents instead: .npy of (N, L), or .csv with columns z0, z1, ...",
            metavar="FILE",
            parser=options.home_path,
        ),
    ] = None
    interpolate: Annotated[
        tuple[str, str] | None,
        option(
            "From one image to another, each an image file or the index of a test image.",
            metavar="A B",
            panel=WALKS,
        ),
    ] = None
    path: Annotated[
        Literal["spherical", "linear"],
        option(
            "The path of --interpolate; spherical keeps to vector lengths likely under the prior.",
            panel=WALKS,
        ),
    ] = "spherical"
    traverse: Annotated[
        bool,
        option(
            "One row per latent dimension, from -3 to 3 standard deviations; largest KL"
            " first, collapsed ones marked.",
            "--traverse",
            panel=WALKS,
        ),
    ] = False
    around: Annotated[
        str | None,
        option(
            "The image file or test index --traverse starts from.",
            default="latents of 0",
            metavar="IMAGE",
            parser=options.home_text,
            panel=WALKS,
        ),
    ] = None
    manifold: Annotated[
        bool,
        option(
            "A grid through the two dimensions of the largest KL, at normal quantiles.",
            "--manifold",
            panel=WALKS,
        ),
    ] = False
    steps: Annotated[
        int | None,
        option(
            "Images from A to B, in a row of --traverse, or along each side of --manifold.",
            default="8, 13, 20",
            metavar="N",
            panel=WALKS,
        ),
    ] = None
    data: options.EvalData = None


def sample(
    *,
    model: options.Model = None,
    asked: Asked,
    seed: options.RunSeed = None,
    preview: options.Preview = None,
    common: options.Common,
) -> None:
    """Decode samples of the prior, or walk through the latent space; prints the paths written.

    [bold]Examples[/bold]
      vaecli sample -n 64
      vaecli sample -n 1000 -o samples/
      vaecli sample --prior gmm -o better.png
      vaecli sample --interpolate 0 1 --steps 24 -o morph.gif
      vaecli sample --traverse --around 0 -o traversal.png
      vaecli sample --latents embeddings.csv -o decoded.png
    """
    numpy_threads.import_numpy()
    common.terminal.preview = preview is not False
    options.require_at_least("--seed", seed, 0)
    _check(asked)
    if asked.output == outputs.STDOUT:
        common.require_stdout()
    _check_output(asked.output, force=common.force, gif=asked.interpolate is not None)

    from vaecli.cli.inputs import load_model, runner
    from vaecli.cli.walks import Walker
    from vaecli.runs.fitted_prior import require_replaceable

    loaded = load_model(common, model)
    require_replaceable(loaded.config, asked.prior)
    computed = runner(common, loaded, asked.num_samples or 0)
    walker = Walker(common, loaded, computed, asked.data)
    if asked.interpolate is not None:
        start, end = map(options.home_text, asked.interpolate)
        result = walker.interpolate(
            start, end, steps=asked.steps, path=asked.path, columns=asked.columns
        )
    elif asked.traverse:
        result = walker.traverse(around=asked.around, steps=asked.steps)
    elif asked.manifold:
        result = walker.manifold(side=asked.steps)
    else:
        latents = _latents(common, loaded, computed, asked, loaded.seed(seed))
        result = _grid(computed, latents, asked.columns)
    _write(common, result, asked.output)
    _preview(common, result)


def _latents(
    common: options.Common, loaded: LoadedModel, runner: Runner, asked: Asked, seed: int
) -> NDArray[np.float32]:
    """The latents (N, L) to decode: read from a file, or drawn from a prior."""
    from vaecli.evaluation import generation

    count = asked.num_samples or DEFAULT_COUNT
    if asked.latents is not None:
        from vaecli.data.latents_file import read_latents

        return read_latents(asked.latents, loaded.config.latents)
    if asked.prior != "gmm":
        return generation.draw(runner, count, seed=seed, temperature=asked.temperature)
    mixture = fitted_prior.fitted(common, loaded, asked.data)
    return mixture.draw(count, seed=seed, temperature=asked.temperature)


def _grid(runner: Runner, latents: NDArray[np.float32], columns: int | None) -> Images2D:
    from vaecli.cli.walks import Images2D
    from vaecli.evaluation import generation
    from vaecli.pictures import grid

    pixels = generation.decode(runner, latents)
    columns = columns or grid.square(len(pixels))
    return Images2D(pixels, grid.make_grid(pixels, columns=columns), columns)


def _check(asked: Asked) -> None:
    """Refuse bad values and options that contradict each other."""
    options.require_at_least("--num-samples", asked.num_samples, 1)
    options.require_at_least("--columns", asked.columns, 1)
    options.require_at_least("--steps", asked.steps, 2)
    options.require_at_least("--temperature", asked.temperature, 0)
    if asked.temperature == float("inf"):
        raise UsageError("--temperature must be finite")
    limited = (("num_samples", asked.num_samples, MAX_COUNT), ("steps", asked.steps, MAX_STEPS))
    for name, value, most in limited:
        if value is not None and value > most:
            raise UsageError(f"{option_name(name)} must be at most {most:,}, not {value:,}")
    modes = [
        name for name in ("latents", "interpolate", "traverse", "manifold") if getattr(asked, name)
    ]
    changed = [
        option_name(field.name)
        for field in fields(asked)
        if getattr(asked, field.name) != field.default
    ]
    drawing = {"--num-samples", "--temperature", "--prior", "--columns"}
    walking = {"--steps", "--path", "--around"}
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
    for name in changed:
        if name in (drawing | walking) - allowed[mode]:
            if mode is None:
                raise UsageError(
                    f"{name} applies only to walks", "Add --interpolate or --traverse."
                )
            raise UsageError(f"--{mode} and {name} contradict each other", "Give one of them.")


def _check_output(output: str | None, *, force: bool, gif: bool) -> None:
    if output is None or outputs.kind(output, SUFFIXES) != "file":
        return
    path = Path(output)
    if path.suffix.lower() == ".gif" and not gif:
        raise UsageError(
            f"--output {output}: only --interpolate can be animated", "Name a .png file."
        )
    files.require_new([path], force=force)


def _write(common: options.Common, result: Images2D, output: str | None) -> None:
    kind = "file" if output is None else outputs.kind(output, SUFFIXES)
    if kind == "folder":
        _write_folder(common, result.pixels, Path(str(output)))
        return
    data = _encoded(result, "" if output is None else Path(output).suffix.lower())
    if kind == "stdout":
        common.terminal.bytes(data)
        return
    path = Path(output or DEFAULT_NAME)
    if output is None and not common.force:
        path = outputs.free_name(path)
    files.save(path, data)
    _tell(common, [path], len(result.pixels))


def _encoded(result: Images2D, suffix: str) -> bytes:
    """The file that a suffix asks for; a grid as PNG without one."""
    from vaecli.pictures import grid

    if suffix == ".npy":
        return grid.encode_npy(result.pixels)
    if suffix == ".gif":
        return _animation(result.pixels)
    return grid.encode_png(result.picture)


def _animation(pixels: Bytes) -> bytes:
    """There and back, staying a while at either end."""
    from vaecli.pictures import animation, grid

    frames = [grid.make_grid(image[None], columns=1, scale=6, gap=0) for image in pixels]
    return animation.encode_gif(
        frames,
        milliseconds=FRAME_MILLISECONDS,
        hold=HOLD_MILLISECONDS,
        there_and_back=True,
    )


def _preview(common: options.Common, result: Images2D) -> None:
    from vaecli.terminal import preview

    preview.show_grid(common.terminal, result.pixels, result.columns)


def _write_folder(common: options.Common, images: Bytes, folder: Path) -> None:
    from vaecli.pictures.grid import encode_png

    digits = max(3, len(str(len(images) - 1)))
    paths = [folder / f"sample-{index:0{digits}d}.png" for index in range(len(images))]
    files.require_new(paths, force=common.force)
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
