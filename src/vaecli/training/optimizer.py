"""Adam with named state, computed by torch's fused kernel; and Muon for the kernels of a grid.

Why not `torch.optim.Adam`: creating one imports torch's compiler, which takes 1.3 s, as long as
importing torch itself; and what it does before it calls the kernel takes 20 microseconds a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vaecli.training.flat import Flat

EPSILON = 1e-8


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) over named parameters, all on one device.

    The state exists from the start, so every checkpoint has the same tensors.

    Args:
        parameters: what to optimise, by name.
        betas: decay of the running means of the gradient and of its square.
        flat: the same parameters, where one vector holds them and another their gradients, which
            are then written anew in each step.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        betas: tuple[float, float],
        flat: Flat | None = None,
    ) -> None:
        self._parameters, self._flat = dict(parameters), flat
        self._betas = betas
        self._values = list[Tensor](self._parameters.values()) if flat is None else [flat.values]
        device = self._values[0].device
        self._steps = [torch.zeros((), device=device) for _ in self._values]
        self._means = [torch.zeros_like(value, requires_grad=False) for value in self._values]
        self._squares = [torch.zeros_like(value, requires_grad=False) for value in self._values]
        self._rate = torch.zeros((), device=device)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each state tensor with its name; the tensors themselves, not copies."""
        flat = self._flat
        kinds = {"step": self._steps, "exp_avg": self._means, "exp_avg_sq": self._squares}
        for kind, tensors in kinds.items():
            for place, name in enumerate(self._parameters):
                if flat is None:
                    tensor = tensors[place]
                else:
                    tensor = tensors[0] if kind == "step" else flat.of(tensors[0], name)
                yield f"{kind}.{name}", tensor

    def forget_gradients(self) -> None:
        """Drop the gradients before the next step."""
        if self._flat is None:
            for value in self._parameters.values():
                value.grad = None

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate; also applies to recorded CUDA graphs."""
        self._rate.fill_(rate)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients."""
        gradients = (
            [value.grad for value in self._values if value.grad is not None]
            if self._flat is None
            else [self._flat.gradients]
        )
        torch._foreach_add_(self._steps, 1)
        torch._fused_adam_(
            self._values,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            lr=self._rate,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


MUON_MOMENTUM = 0.9
MUON_ROWS = 16
"""Kernels with fewer outputs are left to Adam: there is little to make orthogonal."""
ADAM_SHARE = 0.15
"""Adam's learning rate beside Muon's, unless it is given."""


class MuonAdam:
    """Muon for convolution kernels, Adam for everything else; all on one device.

    Muon turns the momentum of a kernel, as a matrix of its outputs by all else, into the nearest
    orthogonal matrix before it takes a step, so that every direction moves by as much.  Nesterov's
    momentum; the orthogonal matrix comes from five steps of a Newton-Schulz iteration.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon

    Args:
        parameters: what to optimise, by name.
        betas: of Adam.
        share: Adam's learning rate beside Muon's.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        betas: tuple[float, float],
        share: float = ADAM_SHARE,
    ) -> None:
        self._share = share
        self._kernels = {n: p for n, p in parameters.items() if p.ndim == 4 and len(p) >= MUON_ROWS}
        self._momenta = {name: torch.zeros_like(kernel) for name, kernel in self._kernels.items()}
        others = {n: p for n, p in parameters.items() if n not in self._kernels}
        self._adam = Adam(others, betas)
        self._rate = torch.zeros((), device=next(iter(parameters.values())).device)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """As `Adam.state`."""
        yield from self._adam.state()
        for name, momentum in self._momenta.items():
            yield f"momentum.{name}", momentum

    def forget_gradients(self) -> None:
        """Drop the gradients before the next step."""
        self._adam.forget_gradients()
        for kernel in self._kernels.values():
            kernel.grad = None

    def set_learning_rate(self, rate: float) -> None:
        """Set Muon's learning rate, and Adam's after it; also applies to recorded CUDA graphs."""
        self._rate.fill_(rate)
        self._adam.set_learning_rate(self._share * rate)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients."""
        self._adam.step()
        for name, kernel in self._kernels.items():
            gradient, momentum = kernel.grad, self._momenta[name]
            assert gradient is not None
            momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
            ahead = gradient.lerp(momentum, MUON_MOMENTUM).flatten(1)
            rows, columns = ahead.shape
            change = orthogonal(ahead).view_as(kernel) * math.sqrt(max(1, rows / columns))
            kernel.sub_(change * self._rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of this one, and all singular values near 1.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon

    Example:
        >>> found = orthogonal(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.2]]))
        >>> bool(((torch.linalg.svdvals(found) - 1).abs() < 0.4).all())
        True
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if tall else x
