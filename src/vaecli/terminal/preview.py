"""Images in the terminal: as many as fit, at full or half size."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaecli.terminal.terminal import Terminal

if TYPE_CHECKING:
    from vaecli.data.labels import Labels
    from vaecli.evaluation.generation import Runner
    from vaecli.terminal.half_blocks import HalfBlocks

Bytes = NDArray[np.uint8]

LARGEST = 32
"""Pixels along the longer side of an image; a cell shows one across and two down."""
ACROSS, DOWN = 8, 4
"""Most images in a row, and most rows."""
STATUS_LINES = 5
"""Lines left free for the progress bar, the figures and the last epochs."""
PAUSE_FACTOR = 200
"""Redraw only after 200 times as long as the last drawing took: 0.5 % of the time."""


@dataclass(frozen=True)
class Tiles:
    """How images are laid out in a terminal.

    Attributes:
        height: pixels, even.
        width: pixels, which are cells.
        across: images in a row.
        down: rows of images.
    """

    height: int
    width: int
    across: int
    down: int


def fit(shape: tuple[int, int], across: int, down: int, columns: int, rows: int) -> Tiles:
    """Lay out `across` times `down` images: at full size if all of them fit, else at half size.

    Args:
        shape: height and width of the images.
        across: images wanted in a row.
        down: rows wanted.
        columns: cells in a line of the terminal.
        rows: lines of the terminal.

    Returns:
        At least one image across; `down` is 0 if no row of images fits.
    """
    shrink = min(1.0, LARGEST / max(shape))
    for scale in (shrink, shrink / 2):
        height = max(2, 2 * round(shape[0] * scale / 2))
        width = max(1, round(shape[1] * scale))
        tiles = Tiles(
            height,
            width,
            max(1, min(across, (columns + 1) // (width + 1))),
            max(0, min(down, rows // (height // 2))),
        )
        if tiles.across == across and tiles.down == down:
            break
    return tiles


def show_grid(terminal: Terminal, pixels: Bytes, columns: int) -> None:
    """Draw a grid of images (N, C, H, W) uint8; if not all fit, evenly spaced ones."""
    if not terminal.draws:
        return
    wide, high = terminal.size
    columns = min(columns, len(pixels))
    down = min(DOWN, -(-len(pixels) // columns))
    tiles = fit(_size(pixels), min(columns, ACROSS), down, wide, high - 2)
    places = [
        [row * columns + column for column in _spread(columns, tiles.across)]
        for row in _spread(-(-len(pixels) // columns), tiles.down)
    ]
    rows = [pixels[[place for place in row if place < len(pixels)]] for row in places]
    terminal.pictures([_small(row, tiles) for row in rows])


def show_pairs(terminal: Terminal, originals: Bytes, reconstructions: Bytes) -> None:
    """Draw originals above their reconstructions; a single one beside its reconstruction."""
    if not terminal.draws:
        return
    wide, high = terminal.size
    if len(originals) == 1:
        tiles = fit(_size(originals), 2, 1, wide, high - 2)
        rows = [np.concatenate([originals, reconstructions])]
    else:
        tiles = fit(_size(originals), min(len(originals), ACROSS), 2, wide, high - 2)
        rows = [originals, reconstructions]
    terminal.pictures([_small(row[: tiles.across], tiles) for row in rows[: tiles.down]])


class TrainingPreview:
    """Test images above their reconstructions, redrawn after each epoch.

    Args:
        terminal: where to draw.
        runner: of the model in training; computes reconstructions only when they are drawn.
        pixels: (N, C, H, W) uint8.
        labels: places of their classes, (N,), where the model takes them.
    """

    def __init__(
        self, terminal: Terminal, runner: Runner, pixels: Bytes, labels: Labels | None = None
    ) -> None:
        self._terminal, self._runner, self._pixels = terminal, runner, pixels
        self._labels = labels
        self._picture: HalfBlocks | None = None
        self._due = 0.0

    def picture(self, *, last: bool = False) -> HalfBlocks | None:
        """What to show now; None if pictures are off or do not fit.

        If epochs are short, some are skipped (see `PAUSE_FACTOR`), but never the last one.

        Args:
            last: whether training is at its end.
        """
        if not (self._terminal.draws and self._terminal.live):
            return None
        began = time.perf_counter()
        if last or began >= self._due:
            self._picture = self._draw()
            now = time.perf_counter()
            self._due = now + PAUSE_FACTOR * (now - began)
        return self._picture

    def _draw(self) -> HalfBlocks | None:
        from vaecli.evaluation.generation import reconstruct

        wide, high = self._terminal.size
        height, width = _size(self._pixels)
        shrink = min(0.5, LARGEST / 2 / max(height, width))  # small: it shares the screen
        half = round(height * shrink), round(width * shrink)
        across = max(1, min(len(self._pixels), wide // (half[1] + 1)))
        tiles = fit(half, across, min(2, 2 * (high - STATUS_LINES) // half[0]), wide - 1, high)
        originals = self._pixels[: tiles.across]
        labels = None if self._labels is None else self._labels[: tiles.across]
        rows = [originals, reconstruct(self._runner, originals, labels=labels)]
        # if only one row fits, the reconstructions
        shown = [_small(row, tiles) for row in rows[2 - tiles.down :]]
        return self._terminal.half_blocks(shown) if tiles.down else None


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` indices out of `count`, evenly spaced, with the first and the last."""
    if wanted >= count:
        return list(range(count))
    return [round(place * (count - 1) / max(1, wanted - 1)) for place in range(wanted)]


def _size(pixels: Bytes) -> tuple[int, int]:
    return pixels.shape[2], pixels.shape[3]


def _small(pixels: Bytes, tiles: Tiles) -> Bytes:
    from vaecli.pictures.grid import small

    return small(pixels, tiles.height, tiles.width)
