"""The gradient of the default objective written out, for an MLP on the CPU.

`objective` is the definition, and what trains everything else.  Autograd takes 1.5 times as long
for the same gradient: it allocates every intermediate value anew, and runs five operations where
the derivative of a Bernoulli is just S(o) - x.  In bfloat16 it converts each weight for each
product; here that is done once per step.

Axes: B batch, D pixels, L latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaecli.config import Activation, TrainConfig
from vaecli.model.bounds import beta_objective
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.prior import kl_to_prior
from vaecli.model.vae import VAE
from vaecli.training.flat import Flat
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
        and LIKELIHOODS[model.config.likelihood].with_gradient is not None
        and config.importance_samples == 1
        and model.prior is None
        and not model.config.classes
    )


class Backpropagation:
    """The objective of a batch and its gradient, in memory that is kept from step to step.

    Args:
        model: an MLP that `covers` accepts.
        flat: its parameters; their gradients are written there.
        free_bits: as for `objective`.
        products: the type of matrix products; that of the weights, if None.
    """

    def __init__(
        self, model: VAE, flat: Flat, free_bits: float, products: torch.dtype | None = None
    ) -> None:
        self._flat, self._free_bits = flat, free_bits
        self._likelihood = model.config.likelihood
        self._rounds = products not in (None, flat.values.dtype)
        # without rounding these are the parameters and the gradient themselves
        self._values = flat.values.to(products)
        self._gradients = flat.gradients.to(products)
        activation = FUNCTIONS[model.config.activation]
        names = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
        self._encoder, self._decoder = (
            [self._layer(name, activation=activation) for name in names if name.startswith(network)]
            for network in ("encoder.hidden", "decoder.hidden")
        )
        self._heads = self._layer("encoder.mean", "encoder.log_variance")
        self._output = self._layer("decoder.output")

    def _layer(self, *names: str, activation: _Function | None = None) -> _Layer:
        """A layer, or several of the same input as one."""
        weights, biases = ([f"{name}.{part}" for name in names] for part in ("weight", "bias"))
        of = self._flat.of
        return _Layer(
            of(self._values, *weights),
            of(self._values, *biases),
            of(self._gradients, *weights),
            of(self._flat.gradients, *biases),
            activation,
        )

    @torch.no_grad()
    def __call__(self, images: Tensor, noise: Tensor, beta: Tensor | float) -> Outcome:
        """Objective, distortion and rate of each image; `grad` of each weight becomes their mean's.

        Args:
            images: (B, C, H, W) in [0, 1].
            noise: (B, L) standard normal.
            beta: weight of the rate, a number.
        """
        x, count, dtype = images.flatten(1), len(images), images.dtype
        if self._rounds:
            self._values.copy_(self._flat.values)
        features = x
        for layer in self._encoder:
            features = layer.forward(features)
        mean, log_variance = self._heads.forward(features).to(dtype).chunk(2, 1)
        std = torch.exp(0.5 * log_variance)
        features = torch.addcmul(mean, std, noise)
        for layer in self._decoder:
            features = layer.forward(features)
        output = self._output.forward(features).to(dtype)

        with_gradient = LIKELIHOODS[self._likelihood].with_gradient
        assert with_gradient is not None
        likelihoods, gradient = with_gradient(x, output)
        distortion, kl = -likelihoods, kl_to_prior(mean, log_variance)
        minimised = beta_objective(distortion, kl, beta=beta, free_bits=self._free_bits)

        gradient = self._output.backward(gradient.mul_(-1 / count))
        for layer in reversed(self._decoder):
            gradient = layer.backward(gradient)
        gradient = gradient.to(dtype)
        # z = mean + std * noise, and the derivative of `kl_to_prior`
        by_kl = beta / count
        if self._free_bits:
            by_kl = by_kl * (kl >= self._free_bits)
        by_log_variance = 0.5 * (gradient * noise * std + by_kl * torch.expm1(log_variance))
        by_mean = gradient + by_kl * mean
        gradient = self._heads.backward(torch.cat([by_mean, by_log_variance], 1))
        for place, layer in reversed(list(enumerate(self._encoder))):
            gradient = layer.backward(gradient, by_input=place > 0)
        if self._rounds:
            matrices = slice(self._flat.matrices)  # biases have their gradient already, in full
            self._flat.gradients[matrices].copy_(self._gradients[matrices])
        return Outcome(minimised, distortion, kl.sum(1))


class _Layer:
    """An affine layer y = f(x W^T + b), with f an activation or nothing, and its gradient.

    Args:
        weight: W, (out, in), in the type of x and y.
        bias: b, (out,).
        by_weight: memory for the gradient by W.
        by_bias: memory for that by b, in its own type.
        function: f.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        by_weight: Tensor,
        by_bias: Tensor,
        function: _Function | None = None,
    ) -> None:
        self._weight, self._bias, self._transposed = weight, bias, weight.t()
        self._by_weight, self._by_bias = by_weight, by_bias
        self._function = function
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
        self._input = x.to(self._weight.dtype)
        torch.addmm(self._bias, self._input, self._transposed, out=self._before)
        if self._function is None:
            return self._before
        return self._function.apply(self._before, out=self._after)

    def backward(self, by_output: Tensor, *, by_input: bool = True) -> Tensor:
        """Set the gradients of the weights; gives that by x, if wanted.

        Args:
            by_output: gradient by the y of the last `forward`, (B, out).
            by_input: whether the gradient by x is wanted.
        """
        gradient = by_output.to(self._weight.dtype)
        if self._function is not None:
            gradient = self._function.backward(gradient, self._before, grad_input=self._by_before)
            by_output = gradient
        torch.mm(gradient.t(), self._input, out=self._by_weight)
        torch.sum(by_output, 0, dtype=self._by_bias.dtype, out=self._by_bias)  # before rounding
        if not by_input:
            return gradient
        return torch.mm(gradient, self._weight, out=self._by_input)
