"""A network as a value: the operations of encoder and decoder, derived from the configuration.

Axes: B batch, C channels, H height, W width, D = C*H*W pixels, L latent dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from vaecli.config import (
    SCALED_LIKELIHOODS,
    Activation,
    ModelConfig,
)
from vaecli.model.operations import (
    Centre,
    ChannelsLast,
    Constant,
    Convolution,
    Enlarge,
    Flatten,
    Inject,
    Keep,
    Linear,
    Nonlinearity,
    Operation,
    Output,
    Residual,
    Shapes,
    Unflatten,
    placed,
    shapes,
)

PRIOR_COMPONENTS = 256
"""Gaussians of a learned mixture prior."""
FLOW_COUPLINGS, FLOW_WIDTH = 6, 128
"""Couplings of a learned flow prior, and the width of the network in each."""
SMALLEST_SIDE = 8
"""Stages of `--arch conv` halve the image until no side is longer."""
MOST_GROWTH = 4
"""Channels of the last stage, in those of the first, at most."""
DENSE_GROWTH = 16
"""Width of the linear layer beside the latents, in channels of the first stage."""
WIDE_LEVEL = 16
"""Longest side of a level of `--arch grid` with all its channels."""
LAST_SHARE = 4
"""Features at full size have this many times fewer channels than the first stage."""
MAX_LOG_STD = 2.0
"""Of q(z|x) of a grid, at most: the prior has 0, and a wider posterior can only do harm."""


@dataclass(frozen=True)
class Network:
    """Encoder and decoder.

    Attributes:
        encoder: from images to features; its weights are called `encoder.hidden.0.weight`, by
            their place here.  An encoder that begins with a linear layer takes images flattened.
        heads: from features to mean and log variance of q(z|x), two layers `encoder.mean` and
            `encoder.log_variance`.  For a grid, one convolution `encoder.posterior` per group of
            latents, from the top down: from the kept features plus the decoder's, to the group's
            mean and half its log variance.
        decoder: from latents (B, L) to features, `decoder.hidden`.
        output: from features to the parameters of p(x|z), one or more per pixel, `decoder.output`.
        scaled: whether the decoder has one learned scale, `decoder.log_scale`.
        prior: the weights of a learned prior, by name; see `prior.py`.
        classes: those whose p(z|class) the decoder begins with, `decoder.class_mean` and
            `decoder.class_log_std`; 0 for none, and for a grid, whose decoder is its prior.
    """

    encoder: tuple[Operation, ...]
    heads: Linear | tuple[Convolution, ...]
    decoder: tuple[Operation, ...]
    output: Linear | Output
    scaled: bool
    prior: Shapes
    classes: int = 0

    def shapes(self) -> Shapes:
        """The shape of every weight, by name."""
        heads: Iterable[tuple[str, Operation]]
        if isinstance(self.heads, Linear):
            heads = ("encoder.mean", self.heads), ("encoder.log_variance", self.heads)
        else:
            heads = placed("encoder.posterior", self.heads)
        named = [
            *placed("encoder.hidden", self.encoder),
            *heads,
            *placed("decoder.hidden", self.decoder),
            ("decoder.output", self.output),
        ]
        scale: Shapes = {"decoder.log_scale": ()} if self.scaled else {}
        return {**scale, **shapes(named), **self.class_shapes(), **self.prior}

    def class_shapes(self) -> Shapes:
        """The weights of p(z|class), by name."""
        if not self.classes or not isinstance(self.heads, Linear):
            return {}
        shape = self.classes, self.heads.outputs
        return {"decoder.class_mean": shape, "decoder.class_log_std": shape}


def of(config: ModelConfig) -> Network:
    """The network of a configuration."""
    scaled = config.likelihood in SCALED_LIKELIHOODS
    if config.arch == "conv":
        width, last = dense_width(config), last_channels(config)
        return Network(
            tuple(_contraction(config)),
            Linear(width, config.latent_dim),
            tuple(_expansion(config)),
            Output(last, config.output_shape),
            scaled,
            prior_shapes(config),
            len(config.classes),
        )
    if config.arch == "grid":
        return _grid(config, scaled)
    widths, mirrored = (config.pixels, *config.hidden), (config.latent_dim, *config.hidden[::-1])
    classes = len(config.classes)
    return Network(
        tuple(_dense(widths, config.activation, classes)),
        Linear(widths[-1], config.latent_dim),
        tuple(_dense(mirrored, config.activation, classes)),
        Linear(config.hidden[0], prod(config.output_shape)),
        scaled,
        prior_shapes(config),
        classes,
    )


def prior_shapes(config: ModelConfig) -> Shapes:
    """The weights of a learned prior; none for N(0, I)."""
    dimension, count = config.latents, PRIOR_COMPONENTS
    if config.prior == "mixture":
        own: Shapes = {"logits": (count,), "means": (count, dimension)}
        own["log_scales"] = (count, dimension)
        return {f"prior.{name}": shape for name, shape in own.items()}
    named = list[tuple[str, Operation]]()
    if config.prior == "flow":
        for place, (kept, changed) in enumerate(coupled(dimension)):
            named.append((f"prior.{place}.hidden", Linear(len(kept), FLOW_WIDTH)))
            named.append((f"prior.{place}.output", Linear(FLOW_WIDTH, 2 * len(changed))))
    return shapes(named)


def coupled(dimension: int) -> list[tuple[range, range]]:
    """The latents that each coupling of a flow keeps, and those that it changes by them."""
    halves = range(0, dimension, 2), range(1, dimension, 2)
    return [halves if place % 2 else halves[::-1] for place in range(FLOW_COUPLINGS)]


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters."""
    return sum(map(prod, of(config).shapes().values()))


def products(config: ModelConfig) -> int:
    """Multiplications that decoding one image takes, about."""
    net, positions, count = of(config), 1, 0
    for operation in (*net.decoder, net.output):
        match operation:
            case Unflatten((_, height, width)) | Constant((_, height, width), _):
                positions = height * width
            case Enlarge(height, width):
                positions = height * width
        weights = sum(prod(shape) for name, shape in operation.weights.items() if "weight" in name)
        count += weights * positions
    return count


def _dense(widths: Sequence[int], activation: Activation, classes: int) -> Iterator[Operation]:
    """Linear layers, the first of which has rows for the classes."""
    for place, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        yield Linear(inputs, outputs, 0 if place else classes)
        yield Nonlinearity(activation)


class Stage(NamedTuple):
    """Shape of the features after one stage of `--arch conv`."""

    channels: int
    height: int
    width: int


def stages(config: ModelConfig) -> list[Stage]:
    """Shape of the features after each stage of the encoder; an odd side is rounded up.

    Each stage halves height and width, up to 8x8 positions, and doubles the channels, up to four
    times those of the first stage.
    """
    _, height, width = config.image_shape
    first, result = config.hidden[0], list[Stage]()
    while max(height, width) > SMALLEST_SIDE:
        height, width = -(-height // 2), -(-width // 2)
        channels = min(first << len(result), MOST_GROWTH * first)
        result.append(Stage(channels, height, width))
    return result


def last_channels(config: ModelConfig) -> int:
    """Channels of the features at full size."""
    return max(1, config.hidden[0] // LAST_SHARE)


def dense_width(config: ModelConfig) -> int:
    """Width of the linear layer between the convolutions and the latents."""
    return DENSE_GROWTH * config.hidden[0]


def _contraction(config: ModelConfig) -> Iterator[Operation]:
    """From images (B, C, H, W) to features (B, `dense_width`)."""
    shapes, activation = stages(config), Nonlinearity(config.activation)
    yield ChannelsLast()
    channels = config.image_shape[0]
    for place, stage in enumerate(shapes):
        classes = 0 if place else len(config.classes)
        yield Convolution(channels, stage.channels, stride=2, classes=classes)
        if _has_block(place, shapes):
            yield Residual(stage.channels, config.activation)
        yield activation
        channels = stage.channels
    yield from (Flatten(), Linear(prod(shapes[-1]), dense_width(config)), activation)


def _expansion(config: ModelConfig) -> Iterator[Operation]:
    """From latents (B, L) to features (B, `last_channels`, H, W).

    Stages enlarge before they convolve: the other order costs a quarter and learns worse.
    """
    shapes, activation = stages(config), Nonlinearity(config.activation)
    deepest, width = shapes[-1], dense_width(config)
    yield from (Linear(config.latent_dim, width, len(config.classes)), activation)
    yield from (Linear(width, prod(deepest)), Unflatten(deepest), ChannelsLast())
    image = Stage(last_channels(config), *config.image_shape[1:])
    for place, stage in reversed(list(enumerate(shapes))):
        larger = shapes[place - 1] if place else image
        if _has_block(place, shapes):
            yield Residual(stage.channels, config.activation)
        yield from (activation, Enlarge(larger.height, larger.width))
        yield Convolution(stage.channels, larger.channels)
    yield activation


def _has_block(place: int, shapes: list[Stage]) -> bool:
    """Whether a stage has a residual block: all but the first, where it would cost most."""
    return place > 0 or len(shapes) == 1


# --- grid -----------------------------------------------------------------------------------


def grid_channels(config: ModelConfig, side: int) -> int:
    """Features of a level: fewer where it is larger than 16 positions, at least a quarter."""
    first = config.hidden[0]
    return max(1, first // min(4, max(1, -(-side // WIDE_LEVEL))))


def _grid(config: ModelConfig, scaled: bool) -> Network:
    """A ladder of latents: see docs/convolutions.md.

    The latents are those of all levels but the finest, the coarsest first.  Each is standard
    normal, and the decoder is an ordinary function of them.
    """
    levels = config.levels
    channels = [grid_channels(config, max(size)) for size in levels]
    encoder: list[Operation] = [ChannelsLast(), Centre()]
    before, classes = config.image_shape[0], len(config.classes)
    for place, features in enumerate(channels):
        own = 0 if place else classes
        encoder.append(Convolution(before, features, stride=2, classes=own))
        if place:
            encoder += [Residual(features, config.activation), Keep()]
        before = features
    decoder: list[Operation] = [Constant((channels[-1], *levels[-1]), classes)]
    heads, start = list[Convolution](), 0
    for place in reversed(range(len(levels))):
        features, size = channels[place], levels[place]
        if place < len(levels) - 1:
            decoder.append(Convolution(channels[place + 1], features, size=1))
            decoder.append(Enlarge(*size))
        if place:
            group = Inject(start, (config.latent_dim, *size), features)
            decoder.append(group)
            heads.append(Convolution(features, 2 * config.latent_dim))
            start = group.stop
        decoder.append(Residual(features, config.activation))
    decoder.append(Nonlinearity(config.activation))
    output = Output(channels[0], config.output_shape, shuffled=True)
    return Network(tuple(encoder), tuple(heads), tuple(decoder), output, scaled, {})
