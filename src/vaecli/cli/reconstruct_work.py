"""What `vaecli reconstruct` does with its inputs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vaecli.cli import options
from vaecli.cli.reconstruct_jobs import STDIN, Job
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.size_limits import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaecli.data.pixels import Bytes
    from vaecli.evaluation.generation import Runner
    from vaecli.model.numpy_prior import Prior
    from vaecli.runs.held_out import Surprise
    from vaecli.runs.load import LoadedModel

Fit = Literal["auto", "crop", "pad", "stretch", "digit"]
BATCH = 32
"""Inputs that a thread takes at a time."""
TEST_IMAGES = 32
TEST_COLUMNS = 16


@dataclass(frozen=True)
class Done:
    """What became of one input.

    Attributes:
        notes: what was changed to fit the model.
        original: (C, H, W) uint8, at the model's shape; None where it cannot be read.
        reconstruction: the same shape.
        heat: (H, W), where it is asked for.
        scores: loss, distortion and rate, where they are asked for.
        png: the picture for stdout, where it goes there.
        error: why it cannot be read.
    """

    notes: tuple[str, ...] = ()
    original: Bytes | None = None
    reconstruction: Bytes | None = None
    heat: NDArray[np.float32] | None = None
    scores: dict[str, float] | None = None
    png: bytes = b""
    error: DataError | None = None


class Work:
    """What happens to each input, and what is kept for the grid."""

    def __init__(
        self,
        common: options.Common,
        loaded: LoadedModel,
        runner: Runner,
        fit: Fit,
        invert: Literal["auto", "yes", "no"],
        compare: bool,
        sample: bool,
        seed: int,
    ) -> None:
        self.common, self.loaded, self.runner = common, loaded, runner
        self.prior: Prior = self.runner.prior
        self.fit = fit
        self.invert: Literal["auto", "yes", "no"] = invert
        self.compare, self.sample, self.seed = compare, sample, seed
        self.failures: list[str] = []
        self.originals: list[Bytes] = []
        self.reconstructions: list[Bytes] = []
        self.heats: list[NDArray[np.float32]] = []
        self.usual: Surprise | None = None

    def read_usual_surprise(self) -> None:
        """Read what --heatmap compares with."""
        from vaecli.runs import held_out

        self.usual = held_out.read(self.loaded, "--heatmap").surprise

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
                        if done.heat is not None:
                            self.heats.append(done.heat)
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
        scored, noise = self.common.terminal.json, None
        if self.sample or scored:  # else what draws is not even imported
            noise = generation.noise(
                self.runner, places.start, places.stop, seed=self.seed, purpose="evaluation"
            )[good]
        results, heats = self.reconstructed(originals, noise if self.sample else None)
        scores: list[dict[str, float]] | list[None] = [None] * len(good)
        written = list[tuple[Path, bytes]]()
        if noise is not None and scored:
            scores = generation.score(self.runner, originals, noise, self.prior)
        for index, result, heat, values in zip(good, results, heats, scores, strict=True):
            original, job = read[index].original, jobs[places[index]]
            output = job.output
            assert original is not None
            png = b""
            if to_stdout or output is not None:
                pair = [original, result] if self.compare else [result]
                png = encode_png(np.concatenate(pair, axis=2))
            if output is not None:
                written.append((output, png))
            if job.heatmap is not None and heat is not None:
                from vaecli.pictures import sheets  # which draws text

                written.append((job.heatmap, encode_png(sheets.heatmap(original, heat))))
            read[index] = replace(
                read[index],
                reconstruction=result,
                heat=heat,
                scores=values,
                png=png if to_stdout else b"",
            )
        files.save_all(written)
        return read

    def reconstructed(
        self,
        originals: Bytes,
        noise: NDArray[np.float32] | None,
        labels: NDArray[np.int64] | None = None,
    ) -> tuple[Bytes, Sequence[NDArray[np.float32] | None]]:
        """The reconstructions, and the heat of each where that is asked for."""
        from vaecli.evaluation import generation

        if self.usual is None:
            results = generation.reconstruct(self.runner, originals, noise=noise, labels=labels)
            return results, [None] * len(results)
        from vaecli.evaluation import heatmap

        results, maps = heatmap.reconstruct(self.runner, originals, noise=noise, labels=labels)
        return results, [*heatmap.heat(maps, self.usual)]

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
            written = {} if job.heatmap is None else {"heatmap": str(job.heatmap)}
            scores = {**(done.scores or {}), "prior": self.prior.name}
            self.common.terminal.object(
                {"input": job.source, "output": output, **written, **scores}
            )
            return
        for path in filter(None, (job.output, job.heatmap)):
            self.common.terminal.data(str(path))

    def test_images(self) -> None:
        """The first test images of the run's data, for the grid."""
        from vaecli.cli.inputs import load_images
        from vaecli.data.labels import of_images
        from vaecli.evaluation import generation

        images, _ = load_images(self.common, self.loaded, None, "test", TEST_IMAGES)
        originals, labels = next(images.parts()), of_images(self.runner.config, images)
        noise = None
        if self.sample:
            noise = generation.noise(
                self.runner, 0, len(originals), seed=self.seed, purpose="evaluation"
            )
        self.originals = [*originals]
        results, heats = self.reconstructed(originals, noise, labels)
        self.reconstructions = [*results]
        self.heats = [heat for heat in heats if heat is not None]

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

        from vaecli.pictures import sheets
        from vaecli.pictures.grid import encode_png, make_pairs

        if not self.originals:
            return
        rows = [np.stack(self.originals), np.stack(self.reconstructions)]
        if self.heats:
            rows.append(sheets.heated(rows[0], np.stack(self.heats)))
            rows = [row.repeat(3 // row.shape[1], 1) for row in rows]
        picture = make_pairs(*rows, columns=TEST_COLUMNS)
        data = encode_png(sheets.with_legend(picture) if self.heats else picture)
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
