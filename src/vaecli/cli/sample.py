"""`vaecli sample`: new images from a prior or given latents, and walks between latents."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vaecli.cli import fitted_prior, options, outputs, sample_output
from vaecli.cli.options import option
from vaecli.errors import UsageError, option_name
from vaecli.system import numpy_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaecli.cli.walks import Images2D
    from vaecli.evaluation.generation import Runner
    from vaecli.runs.load import LoadedModel

DEFAULT_COUNT = 64
ROW_OF_CLASS = 8
"""Images of each class in a grid."""
MAX_COUNT = 100_000
MAX_STEPS = 1_000
WALKS = "Walks through the latent space"


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
            default=sample_output.DEFAULT_NAME,
            metavar="OUT",
            parser=options.home_text,
        ),
    ] = None
    columns: Annotated[
        int | None, option("Images in a row.", default="a square grid", metavar="N")
    ] = None
    temperature: Annotated[float, option("Spread of the draws of the prior.", metavar="T")] = 1.0
    prior: Annotated[
        Literal["normal", "gmm", "flow-matching"] | None,
        option(
            "normal; gmm, a mixture of Gaussians; or flow-matching, a network that carries noise to"
            " latents. The last two are fitted once to the latents of the training images, and kept"
            " in the run.",
            default="the model's own",
            metavar="NAME",
        ),
    ] = None
    draw_pixels: Annotated[
        bool, option("Draw every pixel from p(x|z) instead of taking its mean.", "--draw-pixels")
    ] = False
    label: Annotated[
        str | None,
        option(
            "Class of the images, or its number, for a model of train --condition labels.",
            default="a row of the grid for each; with -n as frequent as in training",
            metavar="NAME",
        ),
    ] = None
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
      vaecli sample --prior flow-matching -o best.png
      vaecli sample --label 3 -n 16
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
    sample_output.check(asked.output, force=common.force, gif=asked.interpolate is not None)

    from vaecli.cli.inputs import by_numpy, load_model, runner
    from vaecli.cli.walks import Walker
    from vaecli.runs.fitted_prior import DRAWN, require_replaceable

    mode, count = _mode(asked), asked.num_samples or 0
    nothing_encoded = mode in (None, "latents") and asked.prior in (None, "normal")
    loaded = load_model(common, model, decoder_only=nothing_encoded)
    if not by_numpy(common, loaded, count):
        loaded = loaded.whole()
    require_replaceable(loaded.config, asked.prior, DRAWN)
    given = loaded
    if mode is not None or asked.label is not None:
        given = loaded.of_class(asked.label, "--label" if mode is None else f"--{mode}")
    computed = runner(common, given, count)
    walker = Walker(common, given, computed, asked.data)
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
        result = _samples(common, loaded, computed, asked, loaded.seed(seed))
    sample_output.write(common, result, asked.output, loaded.config.classes)
    _preview(common, result)


def _samples(
    common: options.Common, loaded: LoadedModel, runner: Runner, asked: Asked, seed: int
) -> Images2D:
    """Decode latents, of a model that takes classes at one of them, at each, or at drawn ones."""
    from vaecli.cli.walks import Images2D
    from vaecli.data import labels
    from vaecli.evaluation import generation
    from vaecli.pictures import grid

    config, columns = runner.config, asked.columns
    by_row = None
    if asked.num_samples is None and sample_output.is_grid(asked.output):
        by_row = labels.rows_of_classes(config, columns or ROW_OF_CLASS)
    count = (asked.num_samples or DEFAULT_COUNT) if by_row is None else len(by_row)
    given = None
    if asked.latents is not None:
        from vaecli.data.latents_file import read_latents

        given = read_latents(asked.latents, loaded.config.latents)
        count = len(given)
    places = labels.drawn(config, count, seed=seed) if by_row is None else by_row
    latents = _drawn(common, loaded, runner, asked, places, count, seed) if given is None else given
    pixel_seed = seed if asked.draw_pixels else None
    pixels = generation.decode(runner, latents, places, pixel_seed=pixel_seed)
    if by_row is None:
        columns = columns or grid.square(len(pixels))
        return Images2D(pixels, grid.make_grid(pixels, columns=columns), columns, places)
    from vaecli.pictures import sheets  # which draws text, what others need not wait for

    columns = columns or ROW_OF_CLASS
    picture = sheets.rows(pixels, columns, config.classes, "a class in each row")
    return Images2D(pixels, picture, columns, places)


def _drawn(
    common: options.Common,
    loaded: LoadedModel,
    runner: Runner,
    asked: Asked,
    places: NDArray[np.int64] | None,
    count: int,
    seed: int,
) -> NDArray[np.float32]:
    """Latents (N, L) of a prior, for classes (N,) where the runner takes them."""
    from vaecli.evaluation import generation

    if asked.prior == "gmm":
        mixture = fitted_prior.fitted(common, loaded, asked.data)
        return mixture.draw(count, seed=seed, temperature=asked.temperature)
    if asked.prior == "flow-matching":
        if asked.label is not None:
            from vaecli.data import labels

            places = labels.repeated(loaded.config, asked.label, count)
        return fitted_prior.flow(common, loaded, asked.data, count, seed=seed, labels=places)
    if asked.prior is None and (better := fitted_prior.better(loaded.config)):
        common.terminal.note(f"prior: {better}")
    return generation.draw(runner, count, seed=seed, temperature=asked.temperature)


def _mode(asked: Asked) -> str | None:
    """The option that decodes something else than draws of the prior, or None."""
    modes = [
        name for name in ("latents", "interpolate", "traverse", "manifold") if getattr(asked, name)
    ]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} contradict each other", "Give one.")
    return modes[0] if modes else None


def _check(asked: Asked) -> None:
    """Refuse bad values and options that contradict each other."""
    options.require_at_least("--num-samples", asked.num_samples, 1)
    options.require_at_least("--columns", asked.columns, 1)
    options.require_at_least("--steps", asked.steps, 2)
    options.require_at_least("--temperature", asked.temperature, 0)
    if asked.temperature == float("inf"):
        raise UsageError("--temperature must be finite")
    if asked.prior == "flow-matching" and asked.temperature != 1:
        raise UsageError(
            "--temperature and --prior flow-matching contradict each other: the network has only"
            " learned to start from noise of spread 1",
            "Leave --temperature out.",
        )
    limited = (("num_samples", asked.num_samples, MAX_COUNT), ("steps", asked.steps, MAX_STEPS))
    for name, value, most in limited:
        if value is not None and value > most:
            raise UsageError(f"{option_name(name)} must be at most {most:,}, not {value:,}")
    changed = [
        option_name(field.name)
        for field in fields(asked)
        if getattr(asked, field.name) != field.default
    ]
    drawing = {"--num-samples", "--temperature", "--prior", "--columns", "--draw-pixels"}
    walking = {"--steps", "--path", "--around"}
    allowed = {
        None: drawing,
        "latents": {"--columns", "--draw-pixels"},
        "interpolate": {"--steps", "--path", "--columns"},
        "traverse": {"--steps", "--around"},
        "manifold": {"--steps"},
    }
    mode = _mode(asked)
    for name in changed:
        if name in (drawing | walking) - allowed[mode]:
            if mode is None:
                raise UsageError(
                    f"{name} applies only to walks", "Add --interpolate or --traverse."
                )
            raise UsageError(f"--{mode} and {name} contradict each other", "Give one of them.")


def _preview(common: options.Common, result: Images2D) -> None:
    from vaecli.terminal import preview

    preview.show_grid(common.terminal, result.pixels, result.columns)
