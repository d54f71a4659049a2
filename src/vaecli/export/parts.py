"""A model split into encoder and decoder, ready for export."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaecli._version import __version__
from vaecli.model.prior import DiagonalMixture, Learned
from vaecli.model.vae import VAE
from vaecli.system.strict_json import canonical_json
from vaecli.system.typed_json import to_json

MIXTURE_NOISE = "noise_and_uniform"
LABEL = "label"


class MeanDecoder(nn.Module):
    """Latents to the mean image of p(x|z), as `sample` and `reconstruct` show it."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model = VAE(model.config)
        self.model.decoder = model.decoder
        del self.model.encoder  # or its weights would be exported too

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Map latents (B, L), and classes (B,), to images (B, C, H, W) in [0, 1]."""
        return self.model.mean_image(latent, label)


class MeanEncoder(nn.Module):
    """Images to mean and log variance of q(z|x), for a grid along the path of means."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) in [0, 1], and classes (B,), to mean and log variance (B, L)."""
        return self.model.encode(image, labels=label)


class Draw(nn.Module):
    """Noise to latents of a learned prior."""

    def __init__(self, prior: Learned) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise (B, `noise_width`) to latents (B, L)."""
        return self.prior.latents(noise)


@dataclass(frozen=True)
class Part:
    """The encoder, the decoder or a learned prior, ready to be exported.

    Attributes:
        name: `encoder`, `decoder` or `prior`.
        module: on the CPU, in evaluation mode; one input, or two, and one or more outputs.
        input: name of the first input.
        shape: of one input, without the batch axis.
        outputs: names of the outputs.
        metadata: what the file says about itself.
        classes: how many the second input, `label`, counts from 0; 0 where there is none.
    """

    name: str
    module: nn.Module
    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    classes: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return (self.input, LABEL) if self.classes else (self.input,)

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        """A fixed batch of all inputs: (batch, *shape), and int64 (batch,) for classes."""
        values = self.example(batch)
        return (values, torch.arange(batch) % self.classes) if self.classes else (values,)

    def example(self, batch: int) -> Tensor:
        """A fixed batch of the first input, like those to come: (batch, *shape)."""
        generator = torch.Generator().manual_seed(batch)
        draw = torch.rand if self.name == "encoder" else torch.randn
        values = draw(batch, *self.shape, generator=generator)
        if self.input == MIXTURE_NOISE:
            values[:, -1] = torch.rand(batch, generator=generator)
        return values


def split(model: VAE) -> list[Part]:
    """Encoder (image to mean, log_variance), decoder (latent to image), and a learned prior.

    The prior maps noise to a latent.  Of a mixture the last number of it is uniform in [0, 1), and
    chooses the component.  Encoder and decoder of a model with `--condition labels` take the places
    of classes as well.
    """
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    config = model.config
    about = {
        "vaecli_version": __version__,
        "config": canonical_json(to_json(config)),
        "value_range": "[0, 1]",  # of images, in as well as out
    }
    image, latent = config.image_shape, (config.latents,)
    outputs = ("mean", "log_variance")
    prior = list[Part]()
    if model.prior is not None:
        wide = isinstance(model.prior, DiagonalMixture)
        shape = (config.latents + wide,)
        given = MIXTURE_NOISE if wide else "noise"
        about_prior = {**about, "part": "prior"}
        prior = [Part("prior", Draw(model.prior), given, shape, ("latent",), about_prior)]
    encoder = MeanEncoder(model) if config.arch == "grid" else model.encoder
    count = len(config.classes)
    return [
        Part("encoder", encoder, "image", image, outputs, {**about, "part": "encoder"}, count),
        Part(
            "decoder",
            MeanDecoder(model),
            "latent",
            latent,
            ("image",),
            {**about, "part": "decoder"},
            count,
        ),
        *prior,
    ]
