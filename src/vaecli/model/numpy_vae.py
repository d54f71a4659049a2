"""Runs a network in numpy, for commands that start before torch could be imported.

Features are (H, W, C) here, one image at a time, and rows of a linear layer are computed in blocks
of a constant number: so no result depends on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecli.config import ModelConfig
from vaecli.model import network, numpy_learned_prior
from vaecli.model import operations as op
from vaecli.model.network import MAX_LOG_STD
from vaecli.model.numpy_activations import ACTIVATIONS
from vaecli.model.numpy_prior import quiet
from vaecli.model.numpy_rows import product
from vaecli.model.one_class import of_class
from vaecli.model.operations import placed

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Weights = Mapping[str, Floats]


class NumpyVAE:
    """A trained model that computes in numpy, on the CPU.

    Args:
        config: of the model.
        weights: its parameters by name, float32.
        workers: threads that may use it at once; None for one on each core.
    """

    def __init__(self, config: ModelConfig, weights: Weights, workers: int | None = None) -> None:
        self.config, self.workers = config, workers
        self._network = network.of(config)
        self._weights = weights
        scale = weights.get("decoder.log_scale")
        self.log_scale = None if scale is None else float(scale)
        self._kernels: dict[str, Floats] = {}
        self._of_class: dict[int, NumpyVAE] = {}
        self.prior = numpy_learned_prior.of(config, weights)

    @quiet()
    def encode(
        self, images: Floats, noise: Floats | None = None, labels: Labels | None = None
    ) -> tuple[Floats, Floats]:
        """Images (B, C, H, W) in [0, 1] to mean and log variance of q(z|x), each (B, L).

        With `noise` (B, L), those of each group of a grid given the groups drawn above it; with the
        places of classes (B,) where the model takes them.
        """
        if labels is not None:
            mean, log_variance = np.empty((2, len(images), self.config.latents), np.float32)
            for rows, model in self._by_class(labels):
                draws = None if noise is None else noise[rows]
                mean[rows], log_variance[rows] = model.encode(images[rows], draws)
            return mean, log_variance
        net = self._network
        if not isinstance(net.heads, op.Linear):
            if noise is None:
                noise = np.zeros((len(images), self.config.latents), np.float32)
            found = [self._climb_down(*pair) for pair in zip(images, noise, strict=True)]
            means: Floats = np.stack([mean for mean, _ in found])
            log_variances: Floats = np.stack([log_variance for _, log_variance in found])
            return means, log_variances
        flat = isinstance(net.encoder[0], op.Linear)
        values = images.reshape(len(images), -1) if flat else images.transpose(0, 2, 3, 1)
        features = self._run(placed("encoder.hidden", net.encoder), values)
        return (
            self._linear(net.heads, "encoder.mean", features),
            self._linear(net.heads, "encoder.log_variance", features),
        )

    @quiet()
    def decode(self, latents: Floats, labels: Labels | None = None) -> Floats:
        """Latents (B, L) to pixel parameters of p(x|z), (B, P, H, W)."""
        if labels is not None:
            parameters = np.empty((len(latents), *self.config.output_shape), np.float32)
            for rows, model in self._by_class(labels):
                parameters[rows] = model.decode(latents[rows])
            return parameters
        net = self._network
        layers = [*placed("decoder.hidden", net.decoder), ("decoder.output", net.output)]
        if isinstance(net.heads, op.Linear):
            result = self._run(layers, latents)
        else:
            result = np.stack([self._spatial(layers, row, _taken_from(row)) for row in latents])
        if result.ndim == 4:
            result = result.transpose(0, 3, 1, 2)
        return result.reshape(len(latents), *self.config.output_shape)

    def _by_class(self, labels: Labels) -> Iterator[tuple[Labels, NumpyVAE]]:
        """The rows of each class, and the model for it."""
        for label in np.unique(labels).tolist():
            if label not in self._of_class:
                config, weights = of_class(self.config, self._weights, label)
                self._of_class[label] = NumpyVAE(config, weights)
            yield np.flatnonzero(labels == label), self._of_class[label]

    def _climb_down(self, image: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """Mean and log variance (L,) of one image (C, H, W); see `VAE._climb_down`."""
        net, activation = self._network, ACTIVATIONS[self.config.activation]
        assert isinstance(net.heads, tuple)
        kept, features = list[Floats](), image.transpose(1, 2, 0)
        for layer in placed("encoder.hidden", net.encoder):
            features = self._spatial([layer], features)
            if isinstance(layer[1], op.Keep):
                kept.append(features)
        means, log_variances = list[Floats](), list[Floats]()
        heads = zip(placed("encoder.posterior", net.heads), reversed(kept), strict=True)

        def drawn(group: op.Inject, features: Floats) -> Floats:
            (name, head), found = next(heads)
            assert isinstance(head, op.Convolution)
            both = self._convolve(head, name, activation(features + found))
            mean, log_std = np.split(both, 2, axis=2)
            log_std = np.minimum(log_std, np.float32(MAX_LOG_STD)).astype(np.float32)
            means.append(mean.transpose(2, 0, 1).reshape(-1))
            log_variances.append(2 * log_std.transpose(2, 0, 1).reshape(-1))
            std: Floats = np.exp(log_std)
            latents: Floats = mean + std * _taken_from(noise)(group, features)
            return latents

        self._spatial(list(placed("decoder.hidden", net.decoder)), image, drawn)
        return np.concatenate(means), np.concatenate(log_variances)

    def _run(self, layers: Sequence[tuple[str, op.Operation]] | Any, values: Floats) -> Floats:
        """Run operations on rows (B, n) or images (B, H, W, C)."""
        layers = list(layers)
        while layers:
            if values.ndim == 2:
                (name, operation), layers = layers[0], layers[1:]
                values = self._row_operation(operation, name, values)
            else:
                dense = [
                    place for place, (_, each) in enumerate(layers) if isinstance(each, op.Flatten)
                ]
                count = dense[0] + 1 if dense else len(layers)
                spatial, layers = layers[:count], layers[count:]
                values = np.stack([self._spatial(spatial, image) for image in values])
        return values

    def _row_operation(self, operation: op.Operation, name: str, values: Floats) -> Floats:
        match operation:
            case op.Linear():
                return self._linear(operation, name, values)
            case op.Nonlinearity():
                return ACTIVATIONS[operation.name](values)
            case op.Unflatten():
                return values.reshape(-1, *operation.shape).transpose(0, 2, 3, 1)
        raise AssertionError(operation)

    def _spatial(
        self,
        layers: Sequence[tuple[str, op.Operation]],
        features: Floats,
        take: Callable[[op.Inject, Floats], Floats] | None = None,
    ) -> Floats:
        """Run operations on one image's features (H, W, C); a `Flatten` at the end gives a row.

        `take` gives the latents (H, W, c) of a group, where there are such.
        """
        following = [operation for _, operation in layers[1:]] + [None]
        doubled = False
        for (name, operation), after in zip(layers, following, strict=True):
            match operation:
                case op.Convolution() if doubled:
                    features, doubled = self._convolve_doubled(operation, name, features), False
                case op.Convolution():
                    features = self._convolve(operation, name, features)
                case op.Nonlinearity():
                    features = ACTIVATIONS[operation.name](features)
                case op.Residual():
                    inner = list(placed(f"{name}.branch", operation.branch))
                    features = features + self._spatial(inner, features)
                case op.Enlarge(height, width):
                    # twice the size, and a 3x3 convolution that follows
                    twice = (2 * features.shape[0], 2 * features.shape[1]) == (height, width)
                    doubled = twice and isinstance(after, op.Convolution) and after.size == 3
                    features = features if doubled else _enlarge(features, height, width)
                case op.Output():
                    shape = operation.shape
                    bias = self._weights[f"{name}.bias"].reshape(shape).transpose(1, 2, 0)
                    inner_name = f"{name}.convolution"
                    features = self._convolve(operation.convolution, inner_name, features)
                    if operation.shuffled:
                        features = _shuffle(features)[: shape[1], : shape[2]]
                    features = features + bias
                case op.Constant():
                    features = self._weights[f"{name}.value"].transpose(1, 2, 0)
                case op.Inject():
                    assert take is not None
                    latents = take(operation, features)
                    features = features + self._convolve(operation.convolution, name, latents)
                case op.Centre():
                    features = 2 * features - 1
                case op.Keep():
                    pass
                case op.Flatten():
                    features = features.transpose(2, 0, 1).reshape(-1)
                case op.ChannelsLast():
                    features = np.ascontiguousarray(features)
                case _:
                    raise AssertionError(operation)
        return features

    def _linear(self, operation: op.Linear, name: str, values: Floats) -> Floats:
        result: Floats = product(values, self._weights[f"{name}.weight"].T)
        result += self._weights[f"{name}.bias"]
        return result

    def _convolve(self, operation: op.Convolution, name: str, features: Floats) -> Floats:
        """One matrix product of the nine neighbours of every position with the kernel."""
        if operation.size == 1:
            kernel = self._kernel(name, lambda weight: weight[:, :, 0, 0].T)
            mixed = features.reshape(-1, features.shape[2]) @ kernel
            return self._biased(operation, name, mixed.reshape(*features.shape[:2], -1))
        height, width, channels = features.shape
        stride = operation.stride
        size = -(-height // stride), -(-width // stride)
        padded = _padded(features)
        if stride == 1 and 2 * operation.outputs < channels:
            kernel = self._kernel(f"{name} by tap", _by_tap, name)
            result = np.zeros((operation.outputs, *size), np.float32)
            for tap, part in enumerate(_parts(kernel, padded)):
                top, left = divmod(tap, 3)
                result += part[:, top : top + height, left : left + width]
            return self._biased(operation, name, result.transpose(1, 2, 0))
        columns = np.empty((*size, 9, channels), np.float32)
        for tap in range(9):
            top, left = divmod(tap, 3)
            rows, across = padded[top::stride], slice(left, None, stride)
            columns[:, :, tap] = rows[: size[0], across][:, : size[1]]
        kernel = self._kernel(
            name, lambda weight: weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
        )
        convolved = columns.reshape(-1, 9 * channels) @ kernel
        return self._biased(operation, name, convolved.reshape(*size, -1))

    def _biased(self, operation: op.Convolution, name: str, features: Floats) -> Floats:
        return features + self._weights[f"{name}.bias"] if operation.bias else features

    def _convolve_doubled(self, operation: op.Convolution, name: str, features: Floats) -> Floats:
        """Nearest upsampling to twice the size and a 3x3 convolution: four convolutions of 2x2.

        Upsampling repeats a position, so of the three rows (or columns) that meet an even or odd
        one two are the same, and their weights can be added up beforehand.
        """
        height, width, channels = features.shape
        padded = _padded(features)
        if 2 * operation.outputs < channels:
            kernel = self._kernel(f"{name} doubled by tap", _doubled_by_tap, name)
            wide = np.zeros((operation.outputs, 2 * height, 2 * width), np.float32)
            for number, part in enumerate(_parts(kernel, padded)):
                (top, left), (down, right) = divmod(number // 4, 2), divmod(number % 4, 2)
                down, right = top + down, left + right
                wide[:, top::2, left::2] += part[:, down : down + height, right : right + width]
            return self._biased(operation, name, wide.transpose(1, 2, 0))
        result = np.empty((2 * height, 2 * width, operation.outputs), np.float32)
        columns = np.empty((height, width, 4, channels), np.float32)
        kernels = self._kernel(f"{name} doubled", _doubled, name)
        for phase in range(4):
            top, left = divmod(phase, 2)
            for tap in range(4):
                down, right = top + tap // 2, left + tap % 2
                columns[:, :, tap] = padded[down : down + height, right : right + width]
            convolved = columns.reshape(-1, 4 * channels) @ kernels[phase]
            result[top::2, left::2] = convolved.reshape(height, width, -1)
        return self._biased(operation, name, result)

    def _kernel(
        self, key: str, arrange: Callable[[Floats], Floats], name: str | None = None
    ) -> Floats:
        """A convolution's weight as its product needs it, arranged once."""
        if key not in self._kernels:
            weight = self._weights[f"{name or key}.weight"]
            self._kernels[key] = np.ascontiguousarray(arrange(weight))
        return self._kernels[key]


def _taken_from(latents: Floats) -> Callable[[op.Inject, Floats], Floats]:
    """What gives each group of the latents (L,), as (H, W, c)."""

    def take(group: op.Inject, features: Floats) -> Floats:
        return latents[group.start : group.stop].reshape(group.shape).transpose(1, 2, 0)

    return take


def _shuffle(features: Floats) -> Floats:
    """Features (h, w, 4 C) as (2 h, 2 w, C)."""
    height, width, channels = features.shape
    quads = features.reshape(height, width, channels // 4, 2, 2).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(quads).reshape(2 * height, 2 * width, channels // 4)


def _padded(features: Floats) -> Floats:
    height, width, channels = features.shape
    padded = np.zeros((height + 2, width + 2, channels), np.float32)
    padded[1:-1, 1:-1] = features
    return padded


def _parts(kernel: Floats, padded: Floats) -> Floats:
    """What each tap gives to every position, (taps, O, H, W), from a kernel (taps, O, I).

    With fewer outputs than inputs, these are smaller than the neighbours of every position.
    """
    height, width, channels = padded.shape
    parts: Floats = kernel.reshape(-1, channels) @ padded.reshape(-1, channels).T
    return parts.reshape(*kernel.shape[:2], height, width)


def _by_tap(weight: Floats) -> Floats:
    return weight.transpose(2, 3, 0, 1).reshape(9, *weight.shape[:2])


def _doubled_by_tap(weight: Floats) -> Floats:
    outputs, inputs = weight.shape[:2]
    return _doubled(weight).reshape(16, inputs, outputs).transpose(0, 2, 1)


def _doubled(weight: Floats) -> Floats:
    """A kernel (O, I, 3, 3) as four of (4 I, O): for even and odd rows, and columns."""

    def halves(kernel: Floats, parity: int) -> Floats:
        # kernel (3, ...): which of the two neighbours each of its three taps meets
        first = (kernel[0], kernel[0] + kernel[1])[parity]
        return np.stack([first, (kernel[1] + kernel[2], kernel[2])[parity]])

    taps = weight.transpose(2, 3, 1, 0)  # (3, 3, I, O)
    phases = [
        halves(halves(taps, top).swapaxes(0, 1), left).swapaxes(0, 1)
        for top in (0, 1)
        for left in (0, 1)
    ]
    return np.stack([phase.reshape(-1, weight.shape[0]) for phase in phases])


def _enlarge(features: Floats, height: int, width: int) -> Floats:
    rows = np.arange(height) * features.shape[0] // height
    columns = np.arange(width) * features.shape[1] // width
    enlarged: Floats = features[rows][:, columns]
    return enlarged
