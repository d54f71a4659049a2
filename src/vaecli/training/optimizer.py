"""Adam with named state, computed by torch's fused kernel.

Why not `torch.optim.Adam`: creating one imports torch's compiler, which takes 1.3 s, as long as
importing torch itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

EPSILON = 1e-8


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) over named parameters, all on one device.

    The state exists from the start, so every checkpoint has the same tensors.

    Args:
        parameters: what to optimise, by name.
        betas: decay of the running means of the gradient and of its square.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], betas: tuple[float, float]) -> None:
        self._parameters = dict(parameters)
        self._betas = betas
        values = self._parameters.values()
        self._steps = [torch.zeros((), device=value.device) for value in values]
        self._means = [torch.zeros_like(value, requires_grad=False) for value in values]
        self._squares = [torch.zeros_like(value, requires_grad=False) for value in values]
        device = next(iter(values)).device
        self._on_gpu = device.type == "cuda"
        self._rate = torch.zeros((), device=device)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each state tensor with its name; the tensors themselves, not copies."""
        kinds = {"step": self._steps, "exp_avg": self._means, "exp_avg_sq": self._squares}
        for kind, tensors in kinds.items():
            for name, tensor in zip(self._parameters, tensors, strict=True):
                yield f"{kind}.{name}", tensor

    def forget_gradients(self) -> None:
        """Drop the gradients before the next step."""
        for value in self._parameters.values():
            value.grad = None

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate; also applies to recorded CUDA graphs."""
        self._rate.fill_(rate)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients."""
        values: list[Tensor] = list(self._parameters.values())
        adam(
            values,
            [value.grad for value in values if value.grad is not None],
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            capturable=self._on_gpu,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=self._rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
