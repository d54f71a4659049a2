"""Animated GIFs, and that of --animate: the same latents decoded after every epoch."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from vaecli.data.labels import rows_of_classes
from vaecli.evaluation.generation import Runner, sample
from vaecli.pictures.grid import Bytes, as_image, make_grid
from vaecli.pictures.sheets import captioned

GIF_GREYS = 32
"""Grey levels kept in an animation: half the bytes, and invisible in moving frames."""
COLUMNS = 8
FRAME_MILLISECONDS, HOLD_MILLISECONDS = 300, 2000


class Animation:
    """Frames of a model in training; the latents are the first of those of `samples.png`.

    Args:
        runner: of the model, looked at whenever a frame is added.
        seed: the run's.
        rows: rows of `COLUMNS` images each.
    """

    def __init__(self, runner: Runner, *, seed: int, rows: int = 4) -> None:
        self._runner = runner
        self._count, self._seed = rows * COLUMNS, seed
        self._frames: list[Bytes] = []

    def add(self, caption: str) -> None:
        """Decode the latents as the model is now."""
        labels = rows_of_classes(self._runner.config, COLUMNS)
        count = self._count if labels is None else len(labels)
        pixels = sample(self._runner, count, seed=self._seed, labels=labels)
        grid = make_grid(pixels, columns=COLUMNS)
        self._frames.append(captioned(grid, caption))

    def encode(self) -> bytes:
        """The GIF of all frames so far; the last one stays for two seconds."""
        return encode_gif(self._frames, milliseconds=FRAME_MILLISECONDS, hold=HOLD_MILLISECONDS)


def encode_gif(
    frames: Sequence[Bytes], *, milliseconds: int, hold: int = 0, there_and_back: bool = False
) -> bytes:
    """An animated GIF that loops.

    Args:
        frames: at least one (C, H, W) uint8, all of one shape.
        milliseconds: how long each is shown; GIF counts in steps of 10.
        hold: how much longer the last one is.
        there_and_back: go back to the first one the same way, which is then held as well.
    """
    images = [as_image(_coarse(frame) if len(frame) == 1 else frame) for frame in frames]
    times = [milliseconds] * len(images)
    times[-1] += hold
    if there_and_back:
        times[0] += hold
        images, times = images + images[-2:0:-1], times + times[-2:0:-1]
    file = io.BytesIO()
    images[0].save(
        file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=True
    )
    return file.getvalue()


def _coarse(pixels: Bytes) -> Bytes:
    steps = GIF_GREYS - 1
    kept: Bytes = np.rint(np.rint(pixels * (steps / 255)) * (255 / steps)).astype(np.uint8)
    return kept
