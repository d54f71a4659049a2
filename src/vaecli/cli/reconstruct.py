"""`vaecli reconstruct`: images through encoder and decoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from vaecli.cli import fitted_prior, options, outputs
from vaecli.cli.options import option
from vaecli.cli.reconstruct_jobs import STDIN, grid_of_test_images, plan
from vaecli.cli.reconstruct_work import Fit, Work
from vaecli.errors import DataError, UsageError
from vaecli.system import numpy_threads


def reconstruct(
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            parser=options.home_text,
            help="Image files, folders, or - for one image from stdin; test images without any.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    output: Annotated[
        str | None,
        option(
            "A .png file for one input, a folder for several, or - for stdout.",
            "--output",
            "-o",
            default="STEM.recon.png here",
            metavar="OUT",
            parser=options.home_text,
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        option(
            "One picture of originals above reconstructions; the only output unless -o is given.",
            metavar="FILE.png",
            parser=options.home_path,
        ),
    ] = None,
    compare: Annotated[
        bool, option("Original and reconstruction side by side.", "--compare")
    ] = False,
    heatmap: Annotated[
        bool,
        option(
            "Also show where the model is surprised: STEM.heatmap.png beside each picture, or a"
            " row of the grid.",
            "--heatmap",
        ),
    ] = False,
    sample: Annotated[
        bool, option("Draw the latent instead of taking its mean.", "--sample")
    ] = False,
    fit: Annotated[
        Fit,
        option(
            "How to bring an image to the model's size: crop its centre, pad it with the colour"
            " of its edge, stretch it, or cut out a digit and centre it as MNIST does; auto does"
            " as in training, and takes digit for models of digits.",
            metavar="NAME",
        ),
    ] = "auto",
    invert: Annotated[
        Literal["auto", "yes", "no"],
        option("Swap dark and light; auto does so if the background is opposite."),
    ] = "auto",
    label: Annotated[
        str | None,
        option(
            "Class of the images, or its number, for a model of train --condition labels.",
            default="test images: their own",
            metavar="NAME",
        ),
    ] = None,
    prior: fitted_prior.Choice = None,
    seed: options.RunSeed = None,
    preview: options.Preview = None,
    common: options.Common,
) -> None:
    """Reconstruct images of any size and colour mode; prints the paths written.

    [bold]Examples[/bold]
      vaecli reconstruct digit.png
      vaecli reconstruct photos/ -o reconstructed/
      cat digit.png | vaecli reconstruct - > recon.png
      vaecli reconstruct *.png --grid all.png
      vaecli reconstruct part.png --heatmap
    """
    numpy_threads.import_numpy()
    common.terminal.preview = preview is not False
    options.require_at_least("--seed", seed, 0)
    if prior is not None and not common.terminal.json:
        raise UsageError(f"--prior {prior} changes only the scores of --json", "Add --json.")
    to_stdout = output == outputs.STDOUT or (
        output is None and inputs == [STDIN] and grid is None and not _stdout_is_terminal()
    )
    if to_stdout:
        common.require_stdout()
    if inputs:
        jobs = plan(common, inputs, output, grid, to_stdout, heatmap)
    else:
        jobs = []
        grid = grid_of_test_images(common, output, grid)

    from vaecli.cli.inputs import load_model, runner
    from vaecli.runs.fitted_prior import require_replaceable
    from vaecli.terminal.preview import ACROSS

    loaded = load_model(common, model)
    require_replaceable(loaded.config, prior)
    given = loaded
    if inputs or label is not None:
        given = loaded.of_class(label, "reconstruct" if label is None else "--label")
    computed = runner(common, given, len(jobs))
    work = Work(common, loaded, computed, fit, invert, compare, sample, loaded.seed(seed))
    if prior == "gmm":
        work.prior = fitted_prior.fitted(common, loaded)
    if heatmap:
        work.read_usual_surprise()
    if inputs:
        # the terminal shows only the first few
        keep = len(jobs) if grid is not None else ACROSS if common.terminal.draws else 0
        work.run(jobs, to_stdout, keep=keep)
    else:
        work.test_images()
    if grid is not None or not inputs:
        work.write_grid(grid)
        if grid is not None and to_stdout:
            common.terminal.note(f"wrote {grid}")
        elif grid is not None and not common.terminal.json:
            common.terminal.data(str(grid))
    work.show()
    if not inputs and common.terminal.json:
        common.terminal.object({"input": None, "output": str(grid)})
    if work.failures:
        count = f"{len(work.failures)} of {len(jobs)} inputs failed"
        done = len(work.failures) < len(jobs)
        hint = "The others are done." if done else "Nothing was written."
        raise DataError(f"{count}: {'; '.join(work.failures[:10])}", hint)


def _stdout_is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
