"""Rounds weights to fp16, and measures how much that changes decoded pixels."""

from __future__ import annotations

import copy

import torch

from vaecli.errors import VaecliError
from vaecli.model.precision import inference
from vaecli.model.vae import VAE, TorchRunner


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
                f"{name}: it holds weights above 65,504, the largest fp16 number",
                "Export it in full precision: --format safetensors.",
            )
    return rounded


@inference()
def half_difference(model: VAE, rounded: VAE, count: int = 256) -> float:
    """The largest change of a decoded pixel, in [0, 1], over `count` draws of the prior."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(count, model.config.latents, generator=generator)
    if model.prior is not None:
        latents = torch.from_numpy(TorchRunner(model).prior.draw(count, seed=0))
    classes = len(model.config.classes)
    labels = torch.arange(count) % classes if classes else None
    exact = copy.deepcopy(model).cpu().mean_image(latents, labels)
    return float((exact - rounded.mean_image(latents, labels)).abs().max())
