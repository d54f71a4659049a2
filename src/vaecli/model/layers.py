"""The operations of `operations.py` as torch modules.

Axes: B batch, C channels, H height, W width, D = C*H*W pixels, L latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from vaecli.config import Activation
from vaecli.model import operations as op

ACTIVATIONS: Mapping[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def build(operation: op.Operation) -> nn.Module:
    """The module of one operation, newly initialised; the rows of classes start at 0."""
    module = _built(operation)
    rows = operation.weights.get(op.CLASS_ROWS)
    if rows is not None:
        module.register_parameter(op.CLASS_ROWS, nn.Parameter(torch.zeros(rows)))
    return module


def _built(operation: op.Operation) -> nn.Module:
    match operation:
        case op.Linear(inputs, outputs):
            return nn.Linear(inputs, outputs)
        case op.Nonlinearity(name):
            return ACTIVATIONS[name]()
        case op.Convolution(inputs, outputs, stride, bias, size):
            return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=bias)
        case op.Residual():
            return Residual(operation)
        case op.Enlarge(height, width):
            return Enlarge(height, width)
        case op.Output():
            return Output(operation)
        case op.Flatten():
            return nn.Flatten()
        case op.Unflatten(shape):
            return nn.Unflatten(1, shape)
        case op.ChannelsLast():
            return ChannelsLast()
        case op.Centre():
            return Centre()
        case op.Keep():
            return nn.Identity()
        case op.Constant(shape, _):
            return Constant(shape)
        case op.Inject():
            return Inject(operation)


def build_all(operations: Sequence[op.Operation]) -> Layers:
    """The modules of operations that follow each other."""
    if isinstance(operations[0], op.Constant):
        return Ladder(*map(build, operations))
    enlarges = any(isinstance(operation, op.Enlarge) for operation in operations)
    return (Expansion if enlarges else Layers)(*map(build, operations))


def run(layer: nn.Module, features: Tensor, labels: Tensor | None) -> Tensor:
    """One layer, and the row of its class added for each image; labels are (B,) int64."""
    result: Tensor = layer(features)
    table: Tensor | None = getattr(layer, op.CLASS_ROWS, None)
    if table is None:
        return result
    rows = of_class(table, labels).to(result.dtype)
    return result + rows.reshape(*rows.shape, *[1] * (result.ndim - rows.ndim))


def of_class(table: Tensor, labels: Tensor | None) -> Tensor:
    """The row (B, ...) of each label (B,) int64 in a table (classes, ...)."""
    assert labels is not None, "this model needs the class of each image"
    return functional.embedding(labels, table.flatten(1)).view(-1, *table.shape[1:])


class Layers(nn.Sequential):
    """Layers in turn, some of which may depend on the class of an image."""

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map what the first layer takes, and labels (B,) int64, to what the last one gives."""
        for layer in self:
            features = run(layer, features, labels)
        return features


class Residual(nn.Module):
    """As `operations.Residual`; its last convolution starts at 0."""

    def __init__(self, operation: op.Residual) -> None:
        super().__init__()
        *before, last = operation.branch
        ending = build(last)
        for parameter in ending.parameters():
            nn.init.zeros_(parameter)
        self.branch = nn.Sequential(*map(build, before), ending)

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


class Expansion(Layers):
    """Layers in turn, those that enlarge to twice the size together with what follows, on the CPU.

    There it saves half the time of the two.  GPUs were not measured; exports name the operations
    that a page can run.
    """

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w), or what the first layer takes, to (B, C', H, W)."""
        exported = torch.compiler.is_compiling() or type(features) is not Tensor
        together = not exported and features.device.type == "cpu"
        layers = iter(self)
        for layer in layers:
            if together and isinstance(layer, Enlarge) and layer.doubles(features):
                features = convolve_doubled(features, next(layers))
            else:
                features = run(layer, features, labels)
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
    """As `operations.Output`."""

    def __init__(self, operation: op.Output) -> None:
        super().__init__()
        self.shape = operation.shape
        self.convolution = build(operation.convolution)
        self.bias = nn.Parameter(torch.zeros(prod(operation.shape)))
        self.shuffled = operation.shuffled

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, c, H, W) to pixel parameters (B, P, H, W)."""
        result: Tensor = self.convolution(features)
        if self.shuffled:  # an odd image is one less than the features give
            _, height, width = self.shape
            result = functional.pixel_shuffle(result, 2)[..., :height, :width]
        return result + self.bias.view(self.shape)


class ChannelsLast(nn.Module):
    """Convert to the channels-last memory format, in which CPUs convolve fastest."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return images.contiguous(memory_format=torch.channels_last)


class Centre(nn.Module):
    """As `operations.Centre`."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        centred: Tensor = 2 * images - 1
        return centred


class Constant(nn.Module):
    """As `operations.Constant`; starts at 0."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(shape))

    def forward(self, like: Tensor) -> Tensor:
        """The features for each row of any tensor (B, ...); (B, C, H, W)."""
        features = self.value.expand(like.shape[0], -1, -1, -1)
        return features.contiguous(memory_format=torch.channels_last)


class Inject(nn.Conv2d):
    """As `operations.Inject`."""

    def __init__(self, operation: op.Inject) -> None:
        super().__init__(operation.shape[0], operation.outputs, 1)
        self.group = operation

    def of(self, latents: Tensor) -> Tensor:
        """This group of latents (B, L), as (B, c, H, W)."""
        group: Tensor = latents[:, self.group.start : self.group.stop]
        return group.unflatten(1, self.group.shape)  # type: ignore[no-any-return]


class Ladder(Layers):
    """Layers in turn, to some of which latents are given besides."""

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, L) to features (B, C, H, W)."""
        return self.walk(latents, lambda group, features: group.of(latents), labels)

    def walk(
        self,
        batch: Tensor,
        take: Callable[[Inject, Tensor], Tensor],
        labels: Tensor | None = None,
    ) -> Tensor:
        """The same with latents that are decided on the way.

        Args:
            batch: any tensor (B, ...).
            take: a group and the features it is added to, to the latents (B, c, H, W).
            labels: classes of the images, (B,) int64, where the model takes them.
        """
        features = batch
        for layer in self:
            if isinstance(layer, Inject):
                features = features + layer(take(layer, features))
            else:
                features = run(layer, features, labels)
        return features
