"""Split a model into encoder and decoder for export, and compare the exports with torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaecli._version import __version__
from vaecli.errors import VaecliError
from vaecli.evaluation.generation import mean_image
from vaecli.model.precision import inference
from vaecli.model.vae import VAE
from vaecli.system.strict_json import canonical_json
from vaecli.system.typed_json import to_json

BATCH_SIZES = (1, 3)
"""Parity is measured at both: a batch axis that was frozen in export fails at one of them."""

Runner = Callable[[Tensor], Sequence[Tensor]]
"""A part in some runtime: one batch in, the outputs in order."""


class MeanDecoder(nn.Module):
    """Latents to the mean image of p(x|z), as `sample` and `reconstruct` show it."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model = VAE(model.config)
        self.model.decoder = model.decoder
        del self.model.encoder  # or its weights would be exported too

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (B, L) to images (B, C, H, W) in [0, 1]."""
        return mean_image(self.model, latent)


@dataclass(frozen=True)
class Part:
    """The encoder or the decoder, ready to be exported.

    Attributes:
        name: `encoder` or `decoder`.
        module: on the CPU, in evaluation mode; one input, one or more outputs.
        input: name of the input.
        shape: of one input, without the batch axis.
        outputs: names of the outputs.
        metadata: what the file says about itself.
    """

    name: str
    module: nn.Module
    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]

    def example(self, batch: int) -> Tensor:
        """A fixed batch of inputs like those to come: (batch, *shape)."""
        generator = torch.Generator().manual_seed(batch)
        draw = torch.rand if self.name == "encoder" else torch.randn
        return draw(batch, *self.shape, generator=generator)


def split(model: VAE) -> list[Part]:
    """The encoder (image to mean, log_variance) and the decoder (latent to image)."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    config = model.config
    about = {
        "vaecli_version": __version__,
        "config": canonical_json(to_json(config)),
        "value_range": "[0, 1]",  # of images, in as well as out
    }
    image, latent = config.image_shape, (config.latent_dim,)
    outputs = ("mean", "log_variance")
    return [
        Part("encoder", model.encoder, "image", image, outputs, {**about, "part": "encoder"}),
        Part(
            "decoder",
            MeanDecoder(model),
            "latent",
            latent,
            ("image",),
            {**about, "part": "decoder"},
        ),
    ]


@inference()
def difference(part: Part, runner: Runner) -> float:
    """The largest absolute difference from torch over all outputs at both batch sizes."""
    worst = 0.0
    for batch in BATCH_SIZES:
        example = part.example(batch)
        wanted = part.module(example)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for mine, theirs in zip(wanted, runner(example), strict=True):
            if mine.shape != theirs.shape:
                return float("inf")
            worst = max(worst, float((mine - theirs).abs().nan_to_num(float("inf")).max()))
    return worst


def require_parity(part: Part, measured: float, tolerance: float) -> None:
    """Refuse an export whose outputs differ from the model's.

    Raises:
        VaecliError: the difference found is above the tolerance.
    """
    if not measured <= tolerance:
        raise VaecliError(
            f"export of the {part.name}: it differs from torch by {measured:.2e},"
            f" more than the tolerance of {tolerance:.2e}; nothing was written",
            "Raise --tolerance if that is good enough for you.",
        )


def round_to_half(model: VAE) -> VAE:
    """A copy on the CPU whose weights are the nearest fp16 numbers, kept as float32.

    Raises:
        VaecliError: a weight lies beyond the range of fp16.
    """
    rounded = copy.deepcopy(model).cpu().requires_grad_(False)
    for name, tensor in rounded.state_dict().items():
        tensor.copy_(tensor.half())
        if not torch.isfinite(tensor).all():
            raise VaecliError(
                f"{name}: it holds weights above 65,504, more than fp16 can",
                "Export it in full precision: --format safetensors.",
            )
    return rounded


@inference()
def half_difference(model: VAE, rounded: VAE, count: int = 256) -> float:
    """The largest change of a decoded pixel, in [0, 1], over `count` draws of the prior."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(count, model.config.latent_dim, generator=generator)
    exact = mean_image(copy.deepcopy(model).cpu(), latents)
    return float((exact - mean_image(rounded, latents)).abs().max())
