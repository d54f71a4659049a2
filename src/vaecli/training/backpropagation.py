"""The gradient of the default objective written out, for an MLP on the CPU.

`objective` is the definition, and what trains everything else.  Autograd takes 1.5 times as long
for the same gradient: it allocates every intermediate value anew, and runs five operations where
the derivative of a Bernoulli is just S(o) - x.  In bfloat16 it converts each weight for each
product; here that is done once per step.

Axes: B batch, D pixels, L latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaecli.config import Activation, TrainConfig
from vaecli.model.bounds import beta_objective, log_likelihood
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.prior import kl_to_prior
from vaecli.model.vae import VAE
from vaecli.training.objective import Outcome

_aten = torch.ops.aten


@dataclass(frozen=True)
class _Function:
    """An activation f and its derivative, as operations that write into memory given to them.

    Attributes:
        apply: x to f(x).
        backward: the gradient by f(x), and f(x) or x, to the gradient by x.
        by_output: whether `backward` wants f(x), so that f(x) may overwrite x.
    """

    apply: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    by_output: bool


def _relu_backward(gradient: Tensor, output: Tensor, *, grad_input: Tensor) -> Tensor:
    result: Tensor = _aten.threshold_backward.grad_input(gradient, output, 0, grad_input=grad_input)
    return result


FUNCTIONS: Mapping[Activation, _Function] = {
    "relu": _Function(_aten.relu.out, _relu_backward, by_output=True),
    "tanh": _Function(_aten.tanh.out, _aten.tanh_backward.grad_input, by_output=True),
    "gelu": _Function(_aten.gelu.out, _aten.gelu_backward.grad_input, by_output=False),
    "silu": _Function(_aten.silu.out, _aten.silu_backward.grad_input, by_output=False),
}


def covers(model: VAE, config: TrainConfig, device: torch.device) -> bool:
    """Whether `Backpropagation` gives the gradient that training needs."""
    return (
        device.type == "cpu"
        and model.config.arch == "mlp"
        and LIKELIHOODS[model.config.likelihood].gradient is not None
        and config.importance_samples == 1
        and model.prior is None
        and not model.config.classes
    )


class Backpropagation:
    """The objective of a batch and its gradient, in memory that is kept from step to step.

    Args:
        model: an MLP that `covers` accepts.
        free_bits: as for `objective`.
        products: the type of matrix products; that of the weights, if None.
    """

    def __init__(self, model: VAE, free_bits: float, products: torch.dtype | None = None) -> None:
        self._model, self._free_bits = model, free_bits
        activation, dtype = model.config.activation, products or model.encoder.mean.weight.dtype
        self._encoder = [_Layer(each, dtype, activation) for each in _linear(model.encoder.hidden)]
        self._mean = _Layer(model.encoder.mean, dtype)
        self._log_variance = _Layer(model.encoder.log_variance, dtype)
        self._decoder = [_Layer(each, dtype, activation) for each in _linear(model.decoder.hidden)]
        assert isinstance(model.decoder.output, nn.Linear)
        self._output = _Layer(model.decoder.output, dtype)

    @torch.no_grad()
    def __call__(self, images: Tensor, noise: Tensor, beta: Tensor) -> Outcome:
        """Objective, distortion and rate of each image; `grad` of each weight becomes their mean's.

        Args:
            images: (B, C, H, W) in [0, 1].
            noise: (B, L) standard normal.
            beta: weight of the rate, a number.
        """
        x, count, dtype = images.flatten(1), len(images), images.dtype
        features = x
        for layer in self._encoder:
            features = layer.forward(features)
        heads = self._mean, self._log_variance
        mean, log_variance = (head.forward(features).to(dtype) for head in heads)
        std = torch.exp(0.5 * log_variance)
        features = torch.addcmul(mean, std, noise)
        for layer in self._decoder:
            features = layer.forward(features)
        output = self._output.forward(features).to(dtype)

        name = self._model.config.likelihood
        distortion, kl = -log_likelihood(x, output, name), kl_to_prior(mean, log_variance)
        minimised = beta_objective(distortion, kl, beta=beta, free_bits=self._free_bits)

        by_output = LIKELIHOODS[name].gradient
        assert by_output is not None
        gradient = by_output(x, output).mul_(-1 / count)  # over `output`, which is of no more use
        gradient = self._output.backward(gradient)
        for layer in reversed(self._decoder):
            gradient = layer.backward(gradient)
        gradient = gradient.to(dtype)
        # z = mean + std * noise, and the derivative of `kl_to_prior`
        by_kl = beta / count
        if self._free_bits:
            by_kl = by_kl * (kl >= self._free_bits)
        by_log_variance = 0.5 * (gradient * noise * std + by_kl * torch.expm1(log_variance))
        gradient = self._log_variance.backward(by_log_variance).add_(
            self._mean.backward(gradient + by_kl * mean)
        )
        for place, layer in reversed(list(enumerate(self._encoder))):
            gradient = layer.backward(gradient, by_input=place > 0)
        return Outcome(minimised, distortion, kl.sum(1))


class _Layer:
    """An affine layer y = f(x W^T + b), with f an activation or nothing, and its gradient.

    Args:
        linear: its weights.
        dtype: what its products are computed in; x and y are of this type too.
        activation: the name of f.
    """

    def __init__(
        self, linear: nn.Linear, dtype: torch.dtype, activation: Activation | None = None
    ) -> None:
        self._parameters = linear.weight, linear.bias
        self._gradients = torch.empty_like(linear.weight), torch.empty_like(linear.bias)
        self._rounds = dtype != linear.weight.dtype
        # without rounding these are the parameters and the gradient themselves
        self._weight, self._bias = (each.detach().to(dtype) for each in self._parameters)
        self._by_weight = self._gradients[0].to(dtype)
        self._transposed = self._weight.t()
        self._function = None if activation is None else FUNCTIONS[activation]
        self._allocate(0)

    def _allocate(self, count: int) -> None:
        """Memory for batches of `count` images, which all but the last of an epoch have."""
        outputs, inputs = self._weight.shape
        self._count = count
        self._before, self._after, self._by_before, self._by_input = (
            self._weight.new_empty(count, width) for width in (outputs, outputs, outputs, inputs)
        )
        if self._function is not None and self._function.by_output:
            self._after = self._before
        self._input = self._by_input

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in) to y (B, out), which the next call overwrites."""
        if x.shape[0] != self._count:
            self._allocate(x.shape[0])
        if self._rounds:
            self._weight.copy_(self._parameters[0])
            self._bias.copy_(self._parameters[1])
            x = x.to(self._weight.dtype)
        self._input = x
        torch.addmm(self._bias, x, self._transposed, out=self._before)
        if self._function is None:
            return self._before
        return self._function.apply(self._before, out=self._after)

    def backward(self, by_output: Tensor, *, by_input: bool = True) -> Tensor:
        """Set the gradients of the weights; gives that by x, if wanted.

        Args:
            by_output: gradient by the y of the last `forward`, (B, out).
            by_input: whether the gradient by x is wanted.
        """
        gradient = by_output.to(self._weight.dtype) if self._rounds else by_output
        if self._function is not None:
            gradient = self._function.backward(gradient, self._before, grad_input=self._by_before)
        torch.mm(gradient.t(), self._input, out=self._by_weight)
        torch.sum(gradient, 0, dtype=self._gradients[1].dtype, out=self._gradients[1])
        if self._rounds:
            self._gradients[0].copy_(self._by_weight)
        for parameter, found in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = found
        if not by_input:
            return gradient
        return torch.mm(gradient, self._weight, out=self._by_input)


def _linear(layers: nn.Module) -> Iterator[nn.Linear]:
    return (layer for layer in layers.modules() if isinstance(layer, nn.Linear))
