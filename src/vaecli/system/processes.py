"""The processes that train one model together, as torchrun starts them; one alone is a group too.

`torch.distributed` is imported only where torchrun's environment is there.  Every method below
is called by all processes of a group at the same place, or by none.
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
"""How long a process waits for the others while training; one that died is noticed at once."""
PREPARATION_TIMEOUT = timedelta(hours=12)
"""How long it waits for images that are downloaded or prepared."""


class Processes:
    """A single process: there is nobody to ask, to tell or to wait for.

    Attributes:
        rank: number of this process; the first, 0, alone writes and speaks.
        count: number of processes.
    """

    rank = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things, as equal as can be, in the order of the ranks."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def parallel(self, module: nn.Module, example: Callable[[nn.Module], Tensor]) -> nn.Module:
        """The module with gradients that are the mean over the processes; weights of the first.

        Args:
            module: on the device it computes on.
            example: a loss of it, as any step has one, on data of no consequence.
        """
        return module

    @contextmanager
    def local(self, module: nn.Module) -> Iterator[None]:
        """Within this, `module` adds up gradients that the next pass outside shares."""
        yield

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, the same bits everywhere."""

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process raised it."""
        return flags

    def first_says(self, flag: bool) -> bool:
        """What the first process answers; the answers of others do not count."""
        return flag

    def share_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's tensors into everyone's."""

    def share_value(self, value: Any) -> Any:
        """The JSON value of the first process."""
        return value

    @contextmanager
    def agreed(self, preparing: bool = False) -> Iterator[None]:
        """A block that all leave together: an error in one of them is raised in every one.

        Args:
            preparing: whether it may take as long as a download.

        Raises:
            VaecliError: the error of the lowest rank that had one.
        """
        yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block in which losing another process becomes one clear error.

        Of the processes that an error ends, one is marked to tell it: its `heard` is True.

        Raises:
            EnvironmentFailure: another process died, or was silent for the group's timeout.
        """
        yield


ONE_PROCESS = Processes()


def join(device: torch.device, timeout: timedelta = TIMEOUT) -> Processes:
    """The group that torchrun started this process for; `ONE_PROCESS` without torchrun.

    Args:
        device: where this process computes.
        timeout: how long it waits for the others.

    Raises:
        EnvironmentFailure: the others cannot be reached.
    """
    return TorchrunProcesses(device, timeout) if torchrun.by_torchrun() else ONE_PROCESS


class TorchrunProcesses(Processes):
    """Several processes, over gloo, with nccl beside it for tensors on CUDA.

    Args:
        device: where this process computes.
        timeout: how long it waits for the others.
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
                f"torchrun: the {self.count} processes cannot reach each other: {_line(error)}",
                "Check the address and port that torchrun was given.",
            ) from None

    def parallel(self, module: nn.Module, example: Callable[[nn.Module], Tensor]) -> nn.Module:
        """As `Processes.parallel`, by DistributedDataParallel."""
        from torch.nn.parallel import DistributedDataParallel

        devices = [self._device] if self._device.type == "cuda" else None
        wrapped = DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)
        # its buckets are laid out anew after the first pass, and sums of three or more are rounded
        # by their place in a bucket: were that pass a training step, a continued run would differ
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
        mine: VaecliError | OSError | MemoryError | None = None
        try:
            yield
        except (VaecliError, OSError, MemoryError) as error:
            mine = error
        group: Any = self._patient if preparing else None
        ranks = torch.tensor([self.count if mine is None else self.rank])
        self._dist.all_reduce(ranks, self._dist.ReduceOp.MIN, group)
        failed = int(ranks)
        if failed == self.count:
            return
        told = self._value_of(failed, _told(mine), group)
        if mine is not None and failed == self.rank:
            raise mine
        theirs = _retold(told)
        vars(theirs)["heard"] = False
        raise theirs

    @contextmanager
    def together(self) -> Iterator[None]:
        """As `Processes.together`."""
        try:
            yield
        except Exception as error:
            about_others = isinstance(error, RuntimeError) and _is_about_others(error)
            told = ProcessLost(self.count, self._timeout) if about_others else error
            if not hasattr(told, "heard"):
                vars(told)["heard"] = self._first_to_fail()
            if told is error:
                raise
            raise told from error

    def _first_to_fail(self) -> bool:
        """Whether no other process has asked this; torchrun keeps the answer."""
        try:
            return bool(self._store.add("failed", 1) == 1)
        except RuntimeError:
            return self.first

    def _value_of(self, rank: int, value: Any, group: Any) -> Any:
        """The JSON value of process `rank`, as text: nothing is unpickled."""
        data = json.dumps(value).encode() if self.rank == rank else b""
        size = torch.tensor([len(data)])
        self._dist.broadcast(size, rank, group)
        buffer = torch.zeros(int(size), dtype=torch.uint8)
        if self.rank == rank:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._dist.broadcast(buffer, rank, group)
        return json.loads(bytes(buffer.tolist()))


def _store(dist: Any, timeout: timedelta) -> Any:
    """Where the processes find each other.

    On one machine torchrun keeps it over a restart, with the addresses of processes that are gone;
    on several it makes a new one, and they need not agree on how often it did.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    attempt = "" if torchrun.several_machines() else f" {torchrun.restarts()}"
    return dist.PrefixStore(f"vaecli{attempt}", store)


class ProcessLost(EnvironmentFailure):
    """Another process of the group died, or has been silent for too long."""

    def __init__(self, count: int, timeout: timedelta) -> None:
        minutes = timeout.total_seconds() / 60
        super().__init__(
            f"one of the {count} processes ended, or was silent for {minutes:g} minutes;"
            " the last commit is kept",
            "Give the same torchrun command again to continue; with --max-restarts it does so.",
        )


def _is_about_others(error: RuntimeError) -> bool:
    import torch.distributed as dist

    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _told(error: BaseException | None) -> list[str]:
    """An error as words that another process understands."""
    if isinstance(error, VaecliError):
        return [type(error).__name__, error.message, error.hint]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return ["EnvironmentFailure", f"{where}{error.strerror or error}", "Check the disk."]
    return ["EnvironmentFailure", "out of memory", "Use a smaller --batch-size."]


def _retold(words: list[str]) -> VaecliError:
    name, message, hint = words
    kind = getattr(errors, name, VaecliError)
    return (
        kind(message, hint) if kind.__init__ is VaecliError.__init__ else VaecliError(message, hint)
    )
