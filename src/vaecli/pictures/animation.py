"""The GIF of --animate: the same latents decoded after every epoch."""

from __future__ import annotations

from torch import Tensor

from vaecli.evaluation.generation import decode, draw
from vaecli.model.vae import VAE
from vaecli.pictures.grid import encode_gif, make_grid
from vaecli.pictures.sheets import captioned

COLUMNS = 8
FRAME_MILLISECONDS, HOLD_MILLISECONDS = 300, 2000


class Animation:
    """Frames of a model in training; the latents are the first of those of `samples.png`.

    Args:
        model: looked at whenever a frame is added.
        seed: the run's.
        rows: rows of `COLUMNS` images each.
    """

    def __init__(self, model: VAE, *, seed: int, rows: int = 4) -> None:
        self._model = model
        self._latents = draw(model, rows * COLUMNS, seed=seed)
        self._frames: list[Tensor] = []

    def add(self, caption: str) -> None:
        """Decode the latents as the model is now."""
        grid = make_grid(decode(self._model, self._latents), columns=COLUMNS)
        self._frames.append(captioned(grid.cpu(), caption))

    def encode(self) -> bytes:
        """The GIF of all frames so far; the last one stays for two seconds."""
        return encode_gif(self._frames, milliseconds=FRAME_MILLISECONDS, hold=HOLD_MILLISECONDS)
