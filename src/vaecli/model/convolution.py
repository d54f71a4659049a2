"""The layers of `--arch conv`: residual 3x3 convolutions, sized by the image shape.

Each stage halves height and width, up to 8x8 positions, and doubles the channels, up to four
times those of the first stage.  There is no batch normalisation, so the output for an image never
depends on the rest of its batch.  The decoder needs only linear layers, 3x3 convolutions, nearest
upsampling, addition and activations, so that a web page can run it.

Axes: B batch, C channels, H height, W width, D = C*H*W pixels, L latent dimension.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaecli.config import ModelConfig

SMALLEST_SIDE = 8
"""Stages halve the image until no side is longer."""
MOST_GROWTH = 4
DENSE_GROWTH = 16
"""Width of the linear layer beside the latents, in channels of the first stage."""
LAST_SHARE = 4
"""Features at full size have this many times fewer channels than the first stage."""


class Stage(NamedTuple):
    """Shape of the features after one stage."""

    channels: int
    height: int
    width: int


def stages(config: ModelConfig) -> list[Stage]:
    """Shape of the features after each stage of the encoder; an odd side is rounded up."""
    _, height, width = config.image_shape
    first, result = config.hidden[0], list[Stage]()
    while max(height, width) > SMALLEST_SIDE:
        height, width = -(-height // 2), -(-width // 2)
        channels = min(first << len(result), MOST_GROWTH * first)
        result.append(Stage(channels, height, width))
    return result


class Residual(nn.Module):
    """x + convolution(activation(convolution(activation(x)))), which starts as x itself.

    Half the channels lie between the two convolutions.
    """

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        between = max(1, channels // 2)
        last = _convolution(between, channels)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(
            activation(), _convolution(channels, between), activation(), last
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        changed: Tensor = features + self.branch(features)
        return changed


class Enlarge(nn.Module):
    """Nearest upsampling to twice the size, or one less if the target size is odd."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def doubles(self, features: Tensor) -> bool:
        """Whether these (B, C, h, w) come out at exactly twice their size."""
        return self.size == (2 * features.shape[2], 2 * features.shape[3])

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, H, W)."""
        return functional.interpolate(features, size=self.size, mode="nearest")


class Expansion(nn.Sequential):
    """Layers in turn, those that enlarge to twice the size together with what follows, on the CPU.

    There it saves half the time of the two.  GPUs were not measured; exports name the operations
    that a page can run.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w), or what the first layer takes, to (B, C', H, W)."""
        exported = torch.compiler.is_compiling() or type(features) is not Tensor
        together = not exported and features.device.type == "cpu"
        layers = iter(self)
        for layer in layers:
            if together and isinstance(layer, Enlarge) and layer.doubles(features):
                features = convolve_doubled(features, next(layers))
            else:
                features = layer(features)
        return features


def convolve_doubled(features: Tensor, convolution: nn.Module) -> Tensor:
    """Nearest upsampling to twice the size and a 3x3 convolution, as one transposed convolution.

    Upsampling repeats each position 2x2, so several of the nine taps meet the same position.
    Summed up beforehand they are a 4x4 kernel with stride 2: 16 products where there were 36.

    Args:
        features: (B, C, h, w).
        convolution: of 3x3, stride 1, padding 1.

    Returns:
        (B, C', 2h, 2w).
    """
    assert isinstance(convolution, nn.Conv2d)
    taps = convolution.weight.flip(2, 3).transpose(0, 1)
    kernel = sum(
        functional.pad(taps, (left, 1 - left, top, 1 - top)) for top in (0, 1) for left in (0, 1)
    )
    assert isinstance(kernel, Tensor)
    return functional.conv_transpose2d(features, kernel, convolution.bias, stride=2, padding=1)


class Output(nn.Module):
    """3x3 convolution with a bias for each pixel, (D,), which can start at the mean image."""

    def __init__(self, channels: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.convolution = _convolution(channels, image_shape[0], bias=False)
        self.bias = nn.Parameter(torch.zeros(prod(image_shape)))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, c, H, W) to pixel parameters (B, C, H, W)."""
        result: Tensor = self.convolution(features) + self.bias.view(self.image_shape)
        return result


class ChannelsLast(nn.Module):
    """Convert to the channels-last memory format, in which CPUs convolve fastest."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return images.contiguous(memory_format=torch.channels_last)


def contraction(config: ModelConfig, activation: type[nn.Module]) -> nn.Sequential:
    """The layers from images (B, C, H, W) to features (B, `dense_width`)."""
    shapes = stages(config)
    layers: list[nn.Module] = [ChannelsLast()]
    channels = config.image_shape[0]
    for place, stage in enumerate(shapes):
        layers.append(_convolution(channels, stage.channels, stride=2))
        if _has_block(place, shapes):
            layers.append(Residual(stage.channels, activation))
        layers.append(activation())
        channels = stage.channels
    layers += [nn.Flatten(), nn.Linear(prod(shapes[-1]), dense_width(config)), activation()]
    return nn.Sequential(*layers)


def expansion(config: ModelConfig, activation: type[nn.Module]) -> Expansion:
    """The layers from latents (B, L) to features (B, `last_channels`, H, W).

    Stages enlarge before they convolve: the other order costs a quarter and learns worse.
    """
    shapes, width = stages(config), dense_width(config)
    deepest = shapes[-1]
    layers: list[nn.Module] = [
        nn.Linear(config.latent_dim, width),
        activation(),
        nn.Linear(width, prod(deepest)),
        nn.Unflatten(1, deepest),
        ChannelsLast(),
    ]
    image = Stage(last_channels(config), *config.image_shape[1:])
    for place, stage in reversed(list(enumerate(shapes))):
        larger = shapes[place - 1] if place else image
        if _has_block(place, shapes):
            layers.append(Residual(stage.channels, activation))
        layers += [activation(), Enlarge(larger.height, larger.width)]
        layers.append(_convolution(stage.channels, larger.channels))
    return Expansion(*layers, activation())


def last_channels(config: ModelConfig) -> int:
    """Channels of the features at full size."""
    return max(1, config.hidden[0] // LAST_SHARE)


def dense_width(config: ModelConfig) -> int:
    """Width F of the linear layer between the convolutions and the latents."""
    return DENSE_GROWTH * config.hidden[0]


def _has_block(place: int, shapes: list[Stage]) -> bool:
    """Whether a stage has a residual block: all but the first, where it would cost most."""
    return place > 0 or len(shapes) == 1


def _convolution(
    channels_in: int, channels_out: int, *, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)
