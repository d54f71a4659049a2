"""The processes of one training: a group started by torchrun, or this process alone.

`torch.distributed` is imported only under torchrun.  Methods that communicate must be called by
all processes of the group at the same place, or by none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from vaecli import errors
from vaecli.errors import EnvironmentFailure, VaecliError
from vaecli.system import torchrun

TIMEOUT = timedelta(minutes=5)
"""Longest wait for another process while training; one that died is noticed at once."""
PREPARATION_TIMEOUT = timedelta(hours=12)
"""Longest wait while another process downloads or prepares images."""


class Processes:
    """A group of one process, so nothing is communicated.

    Attributes:
        rank: number of this process; only process 0 writes files and messages.
        count: number of processes.
    """

    rank = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The slice of `count` items that this process takes; slices follow the ranks."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def parallel(self, module: nn.Module, example: Callable[[nn.Module], Tensor]) -> nn.Module:
        """Wrap a module: weights from process 0, gradients averaged over the processes.

        Args:
            module: already on its device.
            example: computes a loss of the module on any data; run to set up the wrapper.
        """
        return module

    @contextmanager
    def local(self, module: nn.Module) -> Iterator[None]:
        """Accumulate gradients of `module` without synchronising; the next pass outside does."""
        yield

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, the same bits everywhere."""

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process raised it."""
        return flags

    def first_says(self, flag: bool) -> bool:
        """The flag of process 0; those of the others do not count."""
        return flag

    def share_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of every process with those of process 0."""

    def share_value(self, value: Any) -> Any:
        """The JSON value of process 0, in every process."""
        return value

    @contextmanager
    def agreed(self, preparing: bool = False) -> Iterator[None]:
        """Wait for all processes at the end of the block; raise an error of one in all of them.

        Args:
            preparing: whether the block may take as long as a download.

        Raises:
            VaecliError: the error of the lowest rank that failed.
        """
        yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn the loss of another process within the block into `ProcessLost`.

        The error in one process gets `heard = True`: that process prints it, the others do not.

        Raises:
            ProcessLost: another process died, or did not answer within the timeout.
        """
        yield


ONE_PROCESS = Processes()


def join(device: torch.device, timeout: timedelta = TIMEOUT) -> Processes:
    """The group that torchrun started this process for; `ONE_PROCESS` without torchrun.

    Args:
        device: the device of this process.
        timeout: longest wait for the others.

    Raises:
        EnvironmentFailure: the others cannot be reached.
    """
    return TorchrunProcesses(device, timeout) if torchrun.by_torchrun() else ONE_PROCESS


class TorchrunProcesses(Processes):
    """Several processes, over gloo, with nccl beside it for tensors on CUDA.

    Args:
        device: the device of this process.
        timeout: longest wait for the others.
    """

    def __init__(self, device: torch.device, timeout: timedelta) -> None:
        import torch.distributed as dist

        self._dist, self._device, self._timeout = dist, device, timeout
        self.rank, self.count = torchrun.rank(), torchrun.count()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            self._store = _store(dist, timeout)
            dist.init_process_group(
                backend, store=self._store, rank=self.rank, world_size=self.count, timeout=timeout
            )
            self._patient = dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise EnvironmentFailure(
                f"torchrun: the {self.count} processes cannot reach each other:"
                f" {_first_line(error)}",
                "Check the address and port that torchrun was given.",
            ) from None

    def parallel(self, module: nn.Module, example: Callable[[nn.Module], Tensor]) -> nn.Module:
        """As `Processes.parallel`, by DistributedDataParallel."""
        from torch.nn.parallel import DistributedDataParallel

        devices = [self._device] if self._device.type == "cuda" else None
        wrapped = DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)
        # torch rearranges its buckets after the first pass, which changes how sums over three or
        # more processes round: were that pass a training step, a resumed run would differ
        for _ in range(2):
            torch.autograd.backward(example(wrapped))
        module.zero_grad(set_to_none=True)
        return wrapped

    @contextmanager
    def local(self, module: nn.Module) -> Iterator[None]:
        """As `Processes.local`."""
        with module.no_sync():  # type: ignore[operator]
            yield

    def add(self, tensor: Tensor) -> None:
        """As `Processes.add`."""
        self._dist.all_reduce(tensor)

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """As `Processes.any_of`."""
        raised = torch.tensor(flags, dtype=torch.uint8)
        self._dist.all_reduce(raised, self._dist.ReduceOp.MAX)
        return tuple(map(bool, raised.tolist()))

    def first_says(self, flag: bool) -> bool:
        """As `Processes.first_says`."""
        return self.any_of(flag and self.first)[0]

    def share_tensors(self, tensors: Iterable[Tensor]) -> None:
        """As `Processes.share_tensors`."""
        with torch.no_grad():
            for tensor in tensors:
                self._dist.broadcast(tensor, 0)

    def share_value(self, value: Any) -> Any:
        """As `Processes.share_value`."""
        return self._value_of(0, value, None)

    @contextmanager
    def agreed(self, preparing: bool = False) -> Iterator[None]:
        """As `Processes.agreed`."""
        own_error: VaecliError | OSError | MemoryError | None = None
        try:
            yield
        except (VaecliError, OSError, MemoryError) as error:
            own_error = error
        group: Any = self._patient if preparing else None
        ranks = torch.tensor([self.count if own_error is None else self.rank])
        self._dist.all_reduce(ranks, self._dist.ReduceOp.MIN, group)
        failed = int(ranks)
        if failed == self.count:
            return
        words = self._value_of(failed, _to_words(own_error), group)
        if own_error is not None and failed == self.rank:
            raise own_error
        other_error = _from_words(words)
        vars(other_error)["heard"] = False
        raise other_error

    @contextmanager
    def together(self) -> Iterator[None]:
        """As `Processes.together`."""
        try:
            yield
        except Exception as error:
            lost = isinstance(error, RuntimeError) and _is_communication_error(error)
            raised = ProcessLost(self.count, self._timeout) if lost else error
            if not hasattr(raised, "heard"):
                vars(raised)["heard"] = self._first_to_fail()
            if raised is error:
                raise
            raise raised from error

    def _first_to_fail(self) -> bool:
        """Whether no other process has failed before; the store of torchrun counts."""
        try:
            return bool(self._store.add("failed", 1) == 1)
        except RuntimeError:
            return self.first

    def _value_of(self, rank: int, value: Any, group: Any) -> Any:
        """The JSON value of process `rank`; sent as text, so that nothing is unpickled."""
        data = json.dumps(value).encode() if self.rank == rank else b""
        size = torch.tensor([len(data)])
        self._dist.broadcast(size, rank, group)
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if self.rank == rank:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._dist.broadcast(buffer, rank, group)
        return json.loads(bytes(buffer.tolist()))


def _store(dist: Any, timeout: timedelta) -> Any:
    """The key-value store by which the processes find each other.

    On one machine torchrun keeps its store over a restart, with the addresses of the ended
    processes, so keys start with the number of restarts.  On several machines each restart gets a
    new store, and keys must not: the machines may count restarts differently.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    attempt = "" if torchrun.several_machines() else f" {torchrun.restarts()}"
    return dist.PrefixStore(f"vaecli{attempt}", store)


class ProcessLost(EnvironmentFailure):
    """Another process of the group died or stopped answering."""

    def __init__(self, count: int, timeout: timedelta) -> None:
        minutes = timeout.total_seconds() / 60
        super().__init__(
            f"one of the {count} processes ended, or was silent for {minutes:g} minutes;"
            " the last commit is kept",
            "Give the same torchrun command again to continue; with --max-restarts torchrun"
            " does so itself.",
        )


def _is_communication_error(error: RuntimeError) -> bool:
    import torch.distributed as dist

    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _to_words(error: BaseException | None) -> list[str]:
    """Class, message and hint of an error, to send to another process."""
    if isinstance(error, VaecliError):
        return [type(error).__name__, error.message, error.hint]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return ["EnvironmentFailure", f"{where}{error.strerror or error}", "Check the disk."]
    return ["EnvironmentFailure", "out of memory", "Use a smaller --batch-size."]


def _from_words(words: list[str]) -> VaecliError:
    """The error that `_to_words` described."""
    name, message, hint = words
    kind = getattr(errors, name, VaecliError)
    return (
        kind(message, hint) if kind.__init__ is VaecliError.__init__ else VaecliError(message, hint)
    )
