"""The Python API behind `vaecli.load` and `vaecli.train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecli import philox
from vaecli.data.reading import Reading
from vaecli.errors import DataError, UsageError
from vaecli.model.precision import tf32
from vaecli.model.vae import VAE, as_float, reparameterize
from vaecli.runs.load import load_model
from vaecli.system import device as devices
from vaecli.tracking import names
from vaecli.tracking.follow import follow
from vaecli.training import loop, planning
from vaecli.training.events import Event, Notice
from vaecli.training.plan import Request
from vaecli.training.settings import Settings


class Model:
    """A trained model.

    Images are (N, C, H, W): uint8 0..255, or floating point in [0, 1]; tensors or arrays.

    Attributes:
        vae: the `torch.nn.Module` itself, in evaluation mode.
        seed: the run's seed, used where none is given.
    """

    def __init__(self, vae: VAE, seed: int = 0) -> None:
        self.vae = vae
        self.seed = seed

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.vae.config.image_shape

    @property
    def latent_dim(self) -> int:
        """Latent dimension L."""
        return self.vae.config.latents

    @torch.no_grad()
    @tf32(False)
    def encode(self, images: Tensor | NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each (N, L).

        Raises:
            DataError: the images do not have the model's shape, or lie outside [0, 1].
        """
        return self.vae.encode(self._images(images))

    @torch.no_grad()
    @tf32(False)
    def decode(self, latents: Tensor | NDArray[Any]) -> Tensor:
        """Mean image of p(x|z) for latents (N, L): (N, C, H, W) in [0, 1]."""
        latents = torch.as_tensor(latents, dtype=torch.float32).to(self._device)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise DataError(f"latents: {tuple(latents.shape)} is not (N, {self.latent_dim})")
        return self.vae.mean_image(latents)

    def reconstruct(self, images: Tensor | NDArray[Any], *, sample: bool = False) -> Tensor:
        """Encode and decode: (N, C, H, W) in [0, 1].

        Args:
            images: as for `encode`.
            sample: draw the latent from q(z|x) instead of taking its mean.
        """
        images = self._images(images)
        noise = self._noise(len(images), "evaluation", self.seed) if sample else None
        with torch.no_grad(), tf32(False):
            latents, log_variance = self.vae.encode(images, noise)
        if noise is not None:
            latents = reparameterize(latents, log_variance, noise)
        return self.decode(latents)

    def sample(self, count: int, *, seed: int | None = None, temperature: float = 1.0) -> Tensor:
        """Decode `count` draws of the prior N(0, temperature^2): (count, C, H, W) in [0, 1]."""
        noise = self._noise(count, "samples", self.seed if seed is None else seed)
        return self.decode(temperature * noise)

    @property
    def _device(self) -> torch.device:
        return self.vae.device

    def _noise(self, count: int, purpose: str, seed: int) -> Tensor:
        """As `vaecli sample` and `vaecli reconstruct` draw it: (count, L)."""
        draws = philox.normal(self.latent_dim, 0, count, seed=seed, purpose=purpose)
        return torch.from_numpy(draws).to(self._device)

    def _images(self, images: Tensor | NDArray[Any]) -> Tensor:
        images = torch.as_tensor(images)
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise DataError(f"images: {tuple(images.shape)} is not (N, {shape})")
        if images.dtype == torch.uint8:
            return as_float(images.to(self._device))
        images = images.to(torch.float32).to(self._device)
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise DataError("images: floating point values must lie in [0, 1]")
        return images


def load(model: str | Path = "latest", *, device: str = "auto") -> Model:
    """Load a run directory, a `.safetensors` file, `latest`, `digits`, or `hf://OWNER/NAME`.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    loaded = load_model(str(model))
    return Model(loaded.model.to(devices.resolve(device)), loaded.seed(None))


def train(
    data: str = "auto",
    *,
    output: str | Path | None = None,
    init_from: str | Path | None = None,
    data_dir: str | Path | None = None,
    download: bool = True,
    force: bool = False,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    track: Sequence[str] = (),
    **settings: Any,
) -> Iterator[Event]:
    """Train as `vaecli train` does, and yield the events of `vaecli.training.events`.

    An unfinished run of the same settings at `output` is continued; a finished one yields
    `Finished` at once.

    Args:
        data: a data set's name, or the path of a folder of images or of an array file.
        output: the run directory; the next number under `runs/` for None.
        init_from: a run or weights file whose weights to start from.
        data_dir: where named sets and prepared images are kept.
        download: whether the network may be used.
        force: replace a run of other settings at `output`.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: float64 to compute in it; the weights file holds float32 all the same.
        track: experiment trackers to log to: tensorboard, mlflow, wandb, trackio.
        **settings: the options of `vaecli train`, such as `epochs` or `latent_dim`: the fields of
            `training.settings.Settings`.

    Raises:
        VaecliError: as the command would; nothing is raised before the first event is asked for.
    """
    tracks = names.require(track)
    notices: list[str] = []
    where = devices.resolve(device, notices.append)
    if dtype == torch.float64 and not devices.has_float64(where):
        raise UsageError(f"dtype float64: {where} does not support it", "Train on the CPU.")
    request = Request(
        data=data,
        settings=Settings.from_names(settings),
        output=None if output is None else Path(output),
        init_from=None if init_from is None else str(init_from),
        force=force,
        device=where.type,
    )
    folder = None if data_dir is None else Path(data_dir)
    plan = planning.plan(request, Reading(folder, download, notices.append))
    yield from map(Notice, notices + plan.dataset.account.warnings)
    with plan.opened() as run:
        events = loop.train(run, plan.dataset, device=where, initial=plan.initial, dtype=dtype)
        yield from follow(events, run, tracks)
