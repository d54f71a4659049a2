"""The parameters of a model and their gradients, each in one piece of memory.

The optimizer then runs over one vector in place of ten tensors, one conversion rounds all weights,
and layers with the same input are one product.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn


class Flat:
    """Makes parameters, and their gradients, views of two vectors: matrices first, then biases.

    Args:
        parameters: by name, of one type and device.

    Attributes:
        values: all parameters, (N,).
        gradients: all gradients, (N,); they stay where they are from step to step.
        matrices: how many of them belong to matrices.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> flat = Flat(dict(layer.named_parameters()))
        >>> flat.gradients.fill_(1.0).shape, flat.matrices
        (torch.Size([9]), 6)
        >>> layer.bias.grad
        tensor([1., 1., 1.])
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        ordered = sorted(parameters.items(), key=lambda item: item[1].ndim < 2)
        self.values = torch.cat([value.detach().flatten() for _, value in ordered])
        self.gradients = torch.zeros_like(self.values)
        self.matrices = sum(value.numel() for _, value in ordered if value.ndim >= 2)
        self._places: dict[str, tuple[int, torch.Size]] = {}
        start = 0
        for name, value in ordered:
            self._places[name] = start, value.shape
            start += value.numel()
        for name, value in ordered:
            value.data = self.of(self.values, name)
            value.grad = self.of(self.gradients, name)

    def of(self, vector: Tensor, name: str, *following: str) -> Tensor:
        """The part of a vector (N,) that belongs to a parameter, in its shape.

        With parameters that follow it and have as many columns, their rows below its own.
        """
        start, (rows, *columns) = self._places[name]
        for each in following:
            place, (more, *others) = self._places[each]
            assert (place, others) == (start + prod([rows, *columns]), columns)
            rows += more
        return vector[start : start + prod([rows, *columns])].view(rows, *columns)
