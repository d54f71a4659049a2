"""Records a training step as a CUDA graph and replays it, which saves kernel launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before the record, in which libraries set themselves up; they train like all others."""


class Recorder(Protocol):
    """What `Replayed` needs from a device."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Run a step once before it is recorded, and wait for the device."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without running it; returns the function that runs it."""


class CudaGraphs:
    """Records on a CUDA device; https://docs.pytorch.org/docs/stable/notes/cuda.html.

    Args:
        device: which need not be the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, step: Callable[[], None]) -> None:
        """As `Recorder.warm_up`; on a stream of its own, as a graph demands."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):  # makes its device the current one too
            step()
        current.wait_stream(self._stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """As `Recorder.record`."""
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # a stream of its own: torch's default one belongs to the first device ever used
            with torch.cuda.graph(graph, stream=self._stream):
                step()
        replay: Callable[[], None] = graph.replay
        return replay


def recorder(device: torch.device) -> Recorder | None:
    """The recorder for `device`; None on devices where launches are cheap."""
    return CudaGraphs(device) if device.type == "cuda" else None


class Replayed:
    """A step of constant shapes, replayed from its recording after a short warm-up.

    Inputs are copied into tensors of the record's own.  The largest batch seen is what is recorded:
    a run may be continued with the short last batch of an epoch.  A step of fewer images runs as it
    is, and so does every step where recording fails.

    Args:
        step: reads its tensors and changes weights in place; reads nothing back from the device.
        recorder: how the device records.
    """

    def __init__(self, step: Callable[..., None], recorder: Recorder) -> None:
        self._step = step
        self._recorder: Recorder | None = recorder
        self._inputs: tuple[Tensor, ...] = ()
        self._replay: Callable[[], None] | None = None
        self._warmed_up = 0

    def __call__(self, *inputs: Tensor) -> None:
        """Do one step on these inputs."""
        if not self._inputs or len(inputs[0]) > len(self._inputs[0]):
            self._inputs = tuple(torch.empty_like(tensor) for tensor in inputs)
            self._replay, self._warmed_up = None, 0
        same = all(
            mine.shape == given.shape for mine, given in zip(self._inputs, inputs, strict=True)
        )
        if self._recorder is None or not same:
            self._step(*inputs)
            return
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        if self._warmed_up < WARM_UP:
            self._recorder.warm_up(self._on_own_inputs)
            self._warmed_up += 1
            return
        if self._replay is None:
            try:
                self._replay = self._recorder.record(self._on_own_inputs)
            except RuntimeError:
                self._recorder = None
                self._step(*inputs)
                return
        self._replay()

    def _on_own_inputs(self) -> None:
        self._step(*self._inputs)
