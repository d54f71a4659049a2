"""The operations that networks are made of, as values: what they do, and the weights they have.

Three interpreters run them: torch (`layers.py`), which also trains them; numpy (`numpy_vae.py`),
for commands that start at once; and the exported page, in JavaScript.  An operation that is added
here needs a short function in each.

An operation of a model with `--condition labels` may have a row of weights for each class, which
is added to its output.  Torch runs such networks for images of mixed classes.  For one class the
row is part of the bias: the others run what `one_class.py` makes of a network.

Axes: B batch, C channels, H height, W width, L latent dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from vaecli.config import Activation

Shapes = dict[str, tuple[int, ...]]
"""Shape of each weight, by name."""


CLASS_ROWS = "of_class"
"""Name of the weights that have a row for each class."""


def _class_rows(classes: int, *shape: int) -> Shapes:
    """The weights that a class adds to an output of this shape; none without classes."""
    return {CLASS_ROWS: (classes, *shape)} if classes else {}


class Weightless:
    """An operation without weights."""

    @property
    def weights(self) -> Shapes:
        """None."""
        return {}


@dataclass(frozen=True)
class Linear:
    """(B, inputs) to (B, outputs).

    A row for each class does what the class, as one-hot numbers among the inputs, would do.
    """

    inputs: int
    outputs: int
    classes: int = 0

    @property
    def weights(self) -> Shapes:
        """Weight and bias."""
        own: Shapes = {"weight": (self.outputs, self.inputs), "bias": (self.outputs,)}
        return own | _class_rows(self.classes, self.outputs)


@dataclass(frozen=True)
class Nonlinearity(Weightless):
    """An activation function of every value."""

    name: Activation


@dataclass(frozen=True)
class Convolution:
    """3x3, padded by 1: (B, inputs, H, W) to (B, outputs, H/stride, W/stride), rounded up.

    With a size of 1 it is 1x1, and not padded.  A class has a number for each channel.
    """

    inputs: int
    outputs: int
    stride: int = 1
    bias: bool = True
    size: int = 3
    classes: int = 0

    @property
    def weights(self) -> Shapes:
        """Weight, and bias if it has one."""
        weight: Shapes = {"weight": (self.outputs, self.inputs, self.size, self.size)}
        own: Shapes = {**weight, "bias": (self.outputs,)} if self.bias else weight
        return own | _class_rows(self.classes, self.outputs)


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
        return shapes(placed("branch", self.branch))


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
        own = shapes([("convolution", self.convolution)])
        return {**own, "bias": (prod(self.shape),)}


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
    """Learned features (C, H, W), the same for every image of a class, which begin a decoder."""

    shape: tuple[int, int, int]
    classes: int = 0

    @property
    def weights(self) -> Shapes:
        """The features."""
        return {"value": self.shape, **_class_rows(self.classes, *self.shape)}


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


def placed(prefix: str, operations: Sequence[Operation]) -> Iterator[tuple[str, Operation]]:
    """Operations with the names that their weights begin with."""
    return ((f"{prefix}.{place}", operation) for place, operation in enumerate(operations))


def shapes(named: Iterable[tuple[str, Operation]]) -> Shapes:
    """The shape of every weight of named operations."""
    return {
        f"{name}.{key}": shape
        for name, operation in named
        for key, shape in operation.weights.items()
    }
