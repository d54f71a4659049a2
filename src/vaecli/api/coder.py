"""A trained network in Python: encode, decode, reconstruct, sample."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecli import philox
from vaecli.data import labels as conditions
from vaecli.data.digit_fit import Invert
from vaecli.data.picture_fit import Fit
from vaecli.data.picture_for_model import read_picture
from vaecli.data.reading import Reading
from vaecli.errors import DataError, UsageError
from vaecli.evaluation import generation
from vaecli.model import numpy_learned_prior
from vaecli.model.numpy_prior import Mixture, Prior
from vaecli.model.precision import tf32
from vaecli.model.vae import VAE, TorchRunner, as_float, reparameterize
from vaecli.runs.fitted_prior import DRAWN, require_replaceable
from vaecli.runs.load import LoadedModel
from vaecli.system.callbacks import Progress, Report, no_progress, no_report
from vaecli.training import fitted_prior, flow_prior

Labels = str | int | Sequence[str | int] | None
"""A class of a model that takes classes, by name or number, or one for each image."""


class Coder:
    """A trained network: images to latents and back.

    Images are (N, C, H, W): uint8 0..255, or floating point in [0, 1]; tensors or arrays.

    Attributes:
        vae: the `torch.nn.Module` itself, in evaluation mode.
        seed: the run's seed, used where none is given.
    """

    def __init__(self, vae: VAE, seed: int = 0, loaded: LoadedModel | None = None) -> None:
        self.vae = vae
        self.seed = seed
        # a network of one's own is as one in a loose file: nothing says what data it belongs to
        self._loaded = loaded or LoadedModel(vae.config, vae.weights(), Path("VAE"), None, "VAE")

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
    def encode(
        self, images: Tensor | NDArray[Any], *, labels: Labels = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each (N, L).

        Args:
            images: N of them.
            labels: of a model trained with `condition="labels"`: the class of all images by name
                or number, or one for each image.

        Raises:
            DataError: the images do not have the model's shape, or lie outside [0, 1].
            UsageError: the model takes classes and none are given, or the other way round.

        Example:
            >>> import vaecli
            >>> model = vaecli.load("digits", device="cpu")
            >>> mean, log_variance = model.encode(torch.zeros(2, 1, 28, 28))
            >>> mean.shape, log_variance.shape
            (torch.Size([2, 20]), torch.Size([2, 20]))
        """
        images = self._images(images)
        return self.vae.encode(images, labels=self._places(labels, len(images)))

    @torch.no_grad()
    @tf32(False)
    def decode(self, latents: Tensor | NDArray[Any], *, labels: Labels = None) -> Tensor:
        """Mean image of p(x|z) for latents (N, L): (N, C, H, W) in [0, 1].

        Args:
            latents: N of them.
            labels: as for `encode`.

        Example:
            >>> import vaecli
            >>> vaecli.load("digits", device="cpu").decode(torch.zeros(3, 20)).shape
            torch.Size([3, 1, 28, 28])
        """
        latents = torch.as_tensor(latents, dtype=torch.float32).to(self._device)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise DataError(f"latents: {tuple(latents.shape)} is not (N, {self.latent_dim})")
        return self.vae.mean_image(latents, self._places(labels, len(latents)))

    def reconstruct(
        self, images: Tensor | NDArray[Any], *, sample: bool = False, labels: Labels = None
    ) -> Tensor:
        """Encode and decode: (N, C, H, W) in [0, 1].

        Args:
            images: as for `encode`.
            sample: draw the latent from q(z|x) instead of taking its mean.
            labels: as for `encode`.

        Example:
            >>> import vaecli
            >>> model = vaecli.load("digits", device="cpu")
            >>> digits = model.sample(16)
            >>> bool((model.reconstruct(digits) - digits).abs().mean() < 0.05)
            True
        """
        images = self._images(images)
        noise = self._noise(len(images), "evaluation", self.seed) if sample else None
        with torch.no_grad(), tf32(False):
            places = self._places(labels, len(images))
            latents, log_variance = self.vae.encode(images, noise, places)
        if noise is not None:
            latents = reparameterize(latents, log_variance, noise)
        return self.decode(latents, labels=labels)

    def sample(
        self,
        count: int,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        label: Labels = None,
        prior: Literal["normal", "gmm", "flow-matching"] | None = None,
        draw_pixels: bool = False,
        data: str | Path | None = None,
        data_dir: str | Path | None = None,
        download: bool = True,
        progress: Progress = no_progress,
        report: Report = warnings.warn,
    ) -> Tensor:
        """Decode `count` draws of the prior: (count, C, H, W) in [0, 1].

        Args:
            count: how many.
            seed: of the draws; None: the run's.
            temperature: their noise is multiplied by it.
            label: the class of all images, or of each, as for `encode`; None: classes as frequent
                as in training, where the model takes them.
            prior: gmm: the mixture fitted to the training images, which the run then keeps;
                flow-matching: a network taught on them, which takes minutes, and is kept too;
                None: the model's own.
            draw_pixels: draw every pixel from p(x|z) instead of taking its mean.
            data: of these two: whose training images to fit to; None: the run's own.
            data_dir: of these two: where named sets and prepared images are kept.
            download: whether the network may be used.
            progress: called with (what, done, total).
            report: called with each warning.

        Raises:
            UsageError: the model has learned a prior and another is given, nothing says which
                images to fit to, or flow-matching is given a temperature.

        Example:
            >>> import vaecli
            >>> vaecli.load("digits", device="cpu").sample(3).shape
            torch.Size([3, 1, 28, 28])
        """
        require_replaceable(self.vae.config, prior, DRAWN)
        if prior in (None, "normal") and data is not None:
            raise UsageError("data names what gmm or flow-matching is fitted to", "Leave it out.")
        if prior == "flow-matching" and temperature != 1:
            raise UsageError(
                "flow-matching has no temperature: it starts from noise of spread 1",
                "Leave it out.",
            )
        seed = self.seed if seed is None else seed
        if label is None and self.vae.config.classes:
            label = conditions.drawn_names(self.vae.config, count, seed=seed)
        places = self._places(label, count)
        classes = None if places is None else places.cpu().numpy()
        reading = self._reading(data_dir, download, report, progress)
        source = None if data is None else str(data)
        if prior == "flow-matching":
            flow = flow_prior.of_model(
                self._loaded,
                reading,
                lambda _: TorchRunner(self.vae),
                self._device,
                data=source,
                note=no_report,
            )
            latents = flow.draw(count, seed=seed, labels=classes, progress=progress)
        else:
            drawn: Prior = numpy_learned_prior.of(self.vae.config, self.vae.weights())
            if prior == "gmm":
                drawn = self._mixture(reading, source)
            latents = drawn.draw(count, seed=seed, temperature=temperature)
        if not draw_pixels:
            return self.decode(latents, labels=label)
        pixels = generation.decode(TorchRunner(self.vae), latents, classes, pixel_seed=seed)
        return as_float(torch.from_numpy(pixels).to(self._device))

    def read(
        self,
        picture: str | Path | bytes,
        *,
        fit: Fit = "auto",
        invert: Invert = "auto",
        report: Report = no_report,
    ) -> Tensor:
        """An image file of any size and colour mode, or its bytes, as (1, C, H, W) uint8.

        Args:
            picture: path, or content of the file.
            fit: auto, crop, pad, stretch or digit, as for `vaecli reconstruct`.
            invert: auto, yes or no: swap dark and light.
            report: called with each change that was made.

        Raises:
            DataError: it cannot be read.

        Example:
            >>> import vaecli
            >>> from PIL import Image
            >>> Image.new("RGB", (40, 30), "white").save("photo.png")
            >>> vaecli.load("digits", device="cpu").read("photo.png", fit="crop").shape
            torch.Size([1, 1, 28, 28])
        """
        source = picture if isinstance(picture, bytes) else Path(picture)
        name = "picture" if isinstance(picture, bytes) else str(picture)
        pixels, notes = read_picture(self.vae.config, source, fit=fit, invert=invert, name=name)
        for note in notes:
            report(note)
        return torch.from_numpy(pixels[None].copy())

    @property
    def _device(self) -> torch.device:
        return self.vae.device

    @staticmethod
    def _reading(
        data_dir: str | Path | None, download: bool, report: Report, progress: Progress
    ) -> Reading:
        return Reading(None if data_dir is None else Path(data_dir), download, report, progress)

    def _mixture(self, reading: Reading, data: str | None = None) -> Mixture:
        """The mixture that the run keeps, or one fitted now, to `data` if that is given."""
        return fitted_prior.of_model(
            self._loaded, reading, lambda _: TorchRunner(self.vae), data=data, note=no_report
        )

    def _places(self, given: Labels, count: int) -> Tensor | None:
        """The classes as the network takes them, (count,) int64; None if it takes none."""
        config = self.vae.config
        if given is None and not config.classes:
            return None
        if given is None:
            raise UsageError(
                "this model was trained with condition labels and needs the class of each image",
                f"Give labels; its classes are {conditions.listed(config.classes)}.",
            )
        names = [str(given)] * count if isinstance(given, str | int) else [*map(str, given)]
        if len(names) != count:
            raise UsageError(f"labels: there are {len(names)} for {count} images")
        places = {name: conditions.place(config, name) for name in {*names}}
        return torch.tensor([places[name] for name in names], device=self._device)

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
