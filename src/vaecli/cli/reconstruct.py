"""`vaecli reconstruct`: images through encoder and decoder."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vaecli.cli import fitted_prior, options, outputs
from vaecli.cli.options import option
from vaecli.cli.reconstruct_jobs import STDIN, Job, grid_of_test_images, plan
from vaecli.errors import DataError, UsageError
from vaecli.system import files, numpy_threads
from vaecli.system.size_limits import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from vaecli.data.dataset import Bytes
    from vaecli.model.numpy_prior import Prior
    from vaecli.runs.load import LoadedModel

Fit = Literal["auto", "crop", "pad", "stretch", "digit"]
BATCH = 32
"""Inputs that a thread takes at a time."""
TEST_IMAGES = 32
TEST_COLUMNS = 16


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
    sample: Annotated[
        bool, option("Draw the latent instead of taking its mean.", "--sample")
    ] = False,
    fit: Annotated[
        Fit,
        option(
            "How to bring an image to the model's size: crop its centre, pad it with the colour"
            " of its edge, stretch it, or cut out a digit and centre it as MNIST does; auto does"
            " as in training, and takes digit for models of digits."
        ),
    ] = "auto",
    invert: Annotated[
        Literal["auto", "yes", "no"],
        option("Swap dark and light; auto does so if the background is opposite."),
    ] = "auto",
    prior: fitted_prior.Choice = "normal",
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
    """
    numpy_threads.import_numpy()
    common.terminal.preview = preview is not False
    options.require_at_least("--seed", seed, 0)
    if prior != "normal" and not common.terminal.json:
        raise UsageError(f"--prior {prior} changes only the scores of --json", "Add --json.")
    to_stdout = output == outputs.STDOUT or (
        output is None and inputs == [STDIN] and grid is None and not _stdout_is_terminal()
    )
    if to_stdout:
        common.require_stdout()
    if inputs:
        jobs = plan(common, inputs, output, grid, to_stdout)
    else:
        jobs = []
        grid = grid_of_test_images(common, output, grid)

    from vaecli.cli.inputs import load_model
    from vaecli.terminal.preview import ACROSS

    loaded = load_model(common, model)
    work = _Work(common, loaded, fit, invert, compare, sample, loaded.seed(seed), len(jobs))
    if prior == "gmm":
        work.prior = fitted_prior.fitted(common, loaded)
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


@dataclass(frozen=True)
class Done:
    """What became of one input.

    Attributes:
        notes: what was changed to fit the model.
        original: (C, H, W) uint8, at the model's shape; None where it cannot be read.
        reconstruction: the same shape.
        scores: loss, distortion and rate, where they are asked for.
        png: the picture for stdout, where it goes there.
        error: why it cannot be read.
    """

    notes: tuple[str, ...] = ()
    original: Bytes | None = None
    reconstruction: Bytes | None = None
    scores: dict[str, float] | None = None
    png: bytes = b""
    error: DataError | None = None


class _Work:
    """What happens to each input, and what is kept for the grid."""

    def __init__(
        self,
        common: options.Common,
        loaded: LoadedModel,
        fit: Fit,
        invert: Literal["auto", "yes", "no"],
        compare: bool,
        sample: bool,
        seed: int,
        images: int,
    ) -> None:
        from vaecli.cli.inputs import runner
        from vaecli.model.numpy_prior import Normal

        self.common, self.loaded, self.runner = common, loaded, runner(common, loaded, images)
        self.prior: Prior = Normal(loaded.config.latents)
        self.fit = fit
        self.invert: Literal["auto", "yes", "no"] = invert
        self.compare, self.sample, self.seed = compare, sample, seed
        self.failures: list[str] = []
        self.originals: list[Bytes] = []
        self.reconstructions: list[Bytes] = []

    def run(self, jobs: list[Job], to_stdout: bool, *, keep: int) -> None:
        """Every input, in batches in threads; one that fails does not stop the others.

        Args:
            jobs: what to do.
            to_stdout: write the one picture to stdout.
            keep: how many to remember the pixels of, for a grid or the terminal.
        """
        from vaecli.system import threads

        batches = [range(i, min(i + BATCH, len(jobs))) for i in range(0, len(jobs), BATCH)]
        with self.common.terminal.working() as work:
            for places, results in threads.in_order(
                lambda places: self.batch(jobs, places, to_stdout), batches, self.runner.workers
            ):
                for job, done in zip(jobs[places.start : places.stop], results, strict=True):
                    self.tell(job, done, alone=len(jobs) == 1)
                    if done.original is not None and len(self.originals) < keep:
                        assert done.reconstruction is not None
                        self.originals.append(done.original)
                        self.reconstructions.append(done.reconstruction)
                if len(batches) > 1:
                    work("reconstructing", places.stop, len(jobs))

    def batch(self, jobs: list[Job], places: range, to_stdout: bool) -> list[Done]:
        """Read, reconstruct and write the inputs at these places; nothing is printed."""
        import numpy as np

        from vaecli.evaluation import generation
        from vaecli.pictures.grid import encode_png

        read = [self.read(jobs[place].source) for place in places]
        good = [index for index, done in enumerate(read) if done.original is not None]
        if not good:
            return read
        originals = np.stack([original for done in read if (original := done.original) is not None])
        noise = generation.noise(
            self.runner, places.start, places.stop, seed=self.seed, purpose="evaluation"
        )[good]
        results = generation.reconstruct(
            self.runner, originals, noise=noise if self.sample else None
        )
        scores: list[dict[str, float]] | list[None] = [None] * len(good)
        if self.common.terminal.json:
            scores = generation.score(self.runner, originals, noise, self.prior)
        for index, result, values in zip(good, results, scores, strict=True):
            original, output = read[index].original, jobs[places[index]].output
            assert original is not None
            png = b""
            if to_stdout or output is not None:
                pair = [original, result] if self.compare else [result]
                png = encode_png(np.concatenate(pair, axis=2))
            if output is not None:
                files.save(output, png)
            read[index] = replace(
                read[index],
                reconstruction=result,
                scores=values,
                png=png if to_stdout else b"",
            )
        return read

    def read(self, source: str) -> Done:
        """One input at the model's shape."""
        from vaecli.data.picture_for_model import read_picture

        try:
            pixels, notes = read_picture(
                self.loaded.config,
                _stdin() if source == STDIN else Path(source),
                fit=self.fit,
                invert=self.invert,
                name="stdin" if source == STDIN else source,
            )
        except DataError as error:
            return Done(error=error)
        return Done(notes, pixels)

    def tell(self, job: Job, done: Done, *, alone: bool) -> None:
        """Print what became of an input; raise its error if it is the only one."""
        if done.error is not None:
            if alone:
                raise done.error
            self.failures.append(done.error.message)
            return
        for note in done.notes:
            self.common.terminal.note(note)
        if done.png:
            self.common.terminal.bytes(done.png)
        if self.common.terminal.json:
            output = None if job.output is None else str(job.output)
            scores = {**(done.scores or {}), "prior": self.prior.name}
            self.common.terminal.object({"input": job.source, "output": output, **scores})
        elif job.output is not None:
            self.common.terminal.data(str(job.output))

    def test_images(self) -> None:
        """The first test images of the run's data, for the grid."""
        from vaecli.cli.inputs import load_images
        from vaecli.evaluation import generation

        images, _ = load_images(self.common, self.loaded, None, "test", TEST_IMAGES)
        originals = next(images.parts())
        noise = None
        if self.sample:
            noise = generation.noise(
                self.runner, 0, len(originals), seed=self.seed, purpose="evaluation"
            )
        self.originals = [*originals]
        self.reconstructions = [*generation.reconstruct(self.runner, originals, noise=noise)]

    def show(self) -> None:
        """The first originals and reconstructions in the terminal, where it shows pictures."""
        import numpy as np

        from vaecli.terminal.preview import show_pairs

        if self.originals:
            originals, reconstructions = np.stack(self.originals), np.stack(self.reconstructions)
            show_pairs(self.common.terminal, originals, reconstructions)

    def write_grid(self, path: Path | None) -> None:
        """Originals above reconstructions in one picture at `path`, None for stdout."""
        import numpy as np

        from vaecli.pictures.grid import encode_png, make_pairs

        if not self.originals:
            return
        originals, reconstructions = np.stack(self.originals), np.stack(self.reconstructions)
        data = encode_png(make_pairs(originals, reconstructions, columns=TEST_COLUMNS))
        if path is None:
            self.common.terminal.bytes(data)
            return
        files.save(path, data)


def _stdin() -> bytes:
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
    if not data:
        raise DataError("stdin: it is empty", "Pipe an image into vaecli, or name a file.")
    from vaecli.data.second_picture import has_second

    if has_second(data):
        raise DataError(
            "stdin: a second picture follows the first", "Pipe one at a time, or name files."
        )
    return data


def _stdout_is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
