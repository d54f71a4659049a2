"""A network as a value: the operations of encoder and decoder, derived from the configuration.

Three interpreters run them: torch (`vae.py`), which also trains them; numpy (`numpy_vae.py`), for
commands that start at once; and the exported page, in JavaScript.  An operation that is added here
needs a short function in each.

Axes: B batch, C channels, H height, W width, D = C*H*W pixels, L latent dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from vaecli.config import SCALED_LIKELIHOODS, Activation, ModelConfig

Shapes = dict[str, tuple[int, ...]]
"""Shape of each weight, by name."""

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


class Weightless:
    """An operation without weights."""

    @property
    def weights(self) -> Shapes:
        """None."""
        return {}


@dataclass(frozen=True)
class Linear:
    """(B, inputs) to (B, outputs)."""

    inputs: int
    outputs: int

    @property
    def weights(self) -> Shapes:
        """Weight and bias."""
        return {"weight": (self.outputs, self.inputs), "bias": (self.outputs,)}


@dataclass(frozen=True)
class Nonlinearity(Weightless):
    """An activation function of every value."""

    name: Activation


@dataclass(frozen=True)
class Convolution:
    """3x3, padded by 1: (B, inputs, H, W) to (B, outputs, H/stride, W/stride), rounded up.

    With a size of 1 it is 1x1, and not padded.
    """

    inputs: int
    outputs: int
    stride: int = 1
    bias: bool = True
    size: int = 3

    @property
    def weights(self) -> Shapes:
        """Weight, and bias if it has one."""
        shapes: Shapes = {"weight": (self.outputs, self.inputs, self.size, self.size)}
        return {**shapes, "bias": (self.outputs,)} if self.bias else shapes


@dataclass(frozen=True)
class Residual:
    """x + convolution(activation(convolution(activation(x)))), which starts as x itself.

    Half the channels lie between the two convolutions.  There is no batch normalisation, so the
    output for an image never depends on the rest of its batch.
    """

    channels: int
    activation: Activation

    @property
    def branch(self) -> tuple[Operation, ...]:
        """What is added to x."""
        between = max(1, self.channels // 2)
        activation = Nonlinearity(self.activation)
        first = Convolution(self.channels, between)
        return activation, first, activation, Convolution(between, self.channels)

    @property
    def weights(self) -> Shapes:
        """Those of its branch."""
        return _shapes(placed("branch", self.branch))


@dataclass(frozen=True)
class Enlarge(Weightless):
    """Nearest upsampling to height x width: twice the size, or one less if that is odd."""

    height: int
    width: int


@dataclass(frozen=True)
class Output:
    """A 3x3 convolution with a bias for each output, which can start at the mean image."""

    inputs: int
    shape: tuple[int, int, int]
    shuffled: bool = False
    """Whether features have half the size: the convolution gives the four positions of each."""

    @property
    def convolution(self) -> Convolution:
        """Its convolution, without a bias of its own."""
        return Convolution(self.inputs, self.shape[0] * (4 if self.shuffled else 1), bias=False)

    @property
    def weights(self) -> Shapes:
        """Those of its convolution, and the bias."""
        shapes = _shapes([("convolution", self.convolution)])
        return {**shapes, "bias": (prod(self.shape),)}


@dataclass(frozen=True)
class Flatten(Weightless):
    """(B, C, H, W) to (B, C*H*W)."""


@dataclass(frozen=True)
class Unflatten(Weightless):
    """(B, C*H*W) to (B, C, H, W)."""

    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Centre(Weightless):
    """Images in [0, 1] to values from -1 to 1."""


@dataclass(frozen=True)
class Keep(Weightless):
    """Keep the features for the posterior of a group of latents, and go on with them."""


@dataclass(frozen=True)
class Constant:
    """Learned features (C, H, W), the same for every image, which begin a decoder."""

    shape: tuple[int, int, int]

    @property
    def weights(self) -> Shapes:
        """The features."""
        return {"value": self.shape}


@dataclass(frozen=True)
class Inject:
    """Add a group of latents to features (B, outputs, H, W), through a 1x1 convolution.

    The group is `shape` (c, H, W), and lies from `start` on among the latents (B, L).
    """

    start: int
    shape: tuple[int, int, int]
    outputs: int

    @property
    def stop(self) -> int:
        """Where the group ends."""
        return self.start + prod(self.shape)

    @property
    def convolution(self) -> Convolution:
        """Its convolution."""
        return Convolution(self.shape[0], self.outputs, size=1)

    @property
    def weights(self) -> Shapes:
        """Those of its convolution."""
        return self.convolution.weights


@dataclass(frozen=True)
class ChannelsLast(Weightless):
    """The same values in the memory format in which CPUs convolve fastest."""


Operation = (
    Linear
    | Nonlinearity
    | Convolution
    | Residual
    | Enlarge
    | Output
    | Flatten
    | Unflatten
    | ChannelsLast
    | Centre
    | Keep
    | Constant
    | Inject
)


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
    """

    encoder: tuple[Operation, ...]
    heads: Linear | tuple[Convolution, ...]
    decoder: tuple[Operation, ...]
    output: Linear | Output
    scaled: bool

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
        return {**scale, **_shapes(named)}


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
        )
    if config.arch == "grid":
        return _grid(config, scaled)
    widths = (config.pixels, *config.hidden)
    return Network(
        tuple(_dense(widths, config.activation)),
        Linear(widths[-1], config.latent_dim),
        tuple(_dense((config.latent_dim, *reversed(config.hidden)), config.activation)),
        Linear(config.hidden[0], prod(config.output_shape)),
        scaled,
    )


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters."""
    return sum(map(prod, of(config).shapes().values()))


def products(config: ModelConfig) -> int:
    """Multiplications that decoding one image takes, about."""
    net, positions, count = of(config), 1, 0
    for operation in (*net.decoder, net.output):
        match operation:
            case Unflatten((_, height, width)) | Enlarge(height, width):
                positions = height * width
        weights = sum(prod(shape) for name, shape in operation.weights.items() if "weight" in name)
        count += weights * positions
    return count


def placed(prefix: str, operations: Sequence[Operation]) -> Iterator[tuple[str, Operation]]:
    """Operations with the names that their weights begin with."""
    return ((f"{prefix}.{place}", operation) for place, operation in enumerate(operations))


def _shapes(named: Iterable[tuple[str, Operation]]) -> Shapes:
    return {
        f"{name}.{key}": shape
        for name, operation in named
        for key, shape in operation.weights.items()
    }


def _dense(widths: Sequence[int], activation: Activation) -> Iterator[Operation]:
    for inputs, outputs in itertools.pairwise(widths):
        yield Linear(inputs, outputs)
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
        yield Convolution(channels, stage.channels, stride=2)
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
    yield from (Linear(config.latent_dim, width), activation)
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
    before = config.image_shape[0]
    for place, features in enumerate(channels):
        encoder.append(Convolution(before, features, stride=2))
        if place:
            encoder += [Residual(features, config.activation), Keep()]
        before = features
    decoder: list[Operation] = [Constant((channels[-1], *levels[-1]))]
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
    return Network(tuple(encoder), tuple(heads), tuple(decoder), output, scaled)
