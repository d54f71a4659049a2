"""A double of a GPU: tensors that say `cuda:N` or `mps` and hold their numbers in CPU tensors.

The numbers are real, so `.item()`, `.cpu()` and `.tolist()` work, and results are those of the CPU.
The rules of the device are enforced:

- an operation on a tensor of the device and one of the CPU, or of another device, raises, but for
  scalars and for indices;
- `.numpy()` raises, and a generator must be of the device;
- while a CUDA graph is recorded, what would synchronize raises; what ran is taped, and a replay
  runs the same operations on the same storages.  What runs on another device is not recorded;
- float64 raises where the device has none, as Apple's Metal does.

It knows nothing of kernels, streams or speed: benchmarks/gpu_proof.py is for a real GPU.
"""

from __future__ import annotations

import contextlib
import os
import traceback
import types
import unittest
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # now: it looks at functions that are replaced below
from torch.optim.optimizer import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import vaecli

SOURCE = Path(vaecli.__file__).parent

aten: Any = torch.ops.aten
SYNCHRONIZING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.equal.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
MATMULS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}


class Mismatch(RuntimeError):
    """Tensors, or a generator, of different devices."""


class NotCapturable(RuntimeError):
    """An operation that cannot be part of a CUDA graph."""


class NoFloat64(TypeError):
    """Float64 on a device that has none."""


class State:
    """What the double is, and what it has seen since it was switched on."""

    kind = "cuda"
    mode: Double | None = None
    refuse_float64 = False
    memory = 8 << 30
    """Bytes that are free on the device."""
    current = 0
    """Index of the current device."""
    taper: Taper | None = None
    """Of the graph that is being recorded."""
    capture_device = 0
    leaving = False
    """Whether a tensor is on its way to the CPU, which torch's C++ takes it to be on anyway."""
    records = replays = elsewhere = 0
    """Graphs recorded, replays, and operations on another device than that of the graph."""

    def __init__(self) -> None:
        self.syncs: Counter[str] = Counter()
        self.tf32: Counter[str] = Counter()
        """Products that a GPU would have computed in TF32: in a training step, or where."""
        self.seeds: dict[int, str] = {}
        """The device of each generator: the dispatcher gets another object with the same seed."""


STATE = State()


def where() -> str:
    """The innermost line of vaecli on the stack."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(str(SOURCE)):
            return f"{os.path.relpath(frame.filename, SOURCE)}:{frame.lineno}"
    return "?"


class Dev(torch.Tensor):
    """A tensor that says it is on the device; to C++ it is on the CPU, and needs no driver."""

    held: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> Dev:
        make: Any = torch.Tensor._make_wrapper_subclass
        made: Dev = make(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="cpu",
            requires_grad=False,
        )
        return made

    def __init__(self, inner: torch.Tensor, device: torch.device) -> None:
        self.held, self.place = inner, torch.device(device)

    device: Any = property(lambda self: self.place)
    is_cuda: Any = property(lambda self: self.place.type == "cuda")
    is_cpu: Any = property(lambda self: False)

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"Dev({self.place}, {self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cpu:
            return _to(args[0], torch.device("cpu"), None)
        if func is torch.Tensor.tolist:
            return _to(args[0], torch.device("cpu"), None).tolist()
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError(f"can't convert {args[0].place} tensor to numpy, at {where()}")
        if func is torch.Tensor.to and isinstance(args[0], Dev):
            return _to(args[0], *_destination(*args[1:], **kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if STATE.mode is None:
            raise RuntimeError("a tensor of the double was used after it was switched off")
        return STATE.mode.handle(func, args, kwargs or {})


def _destination(
    *args: Any, copy: bool = False, **kwargs: Any
) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and type that the arguments of `Tensor.to` name."""
    if args and isinstance(args[0], torch.Tensor):
        return args[0].device, args[0].dtype
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    return device, dtype


class Numbered(TorchFunctionMode):
    """Moves tensors to `mps:0`; to number `mps` itself, torch would ask for a driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to and not isinstance(args[0], Dev):
            device, dtype = _destination(*args[1:], **kwargs)
            if device is not None and device.type == STATE.kind:
                return aten._to_copy.default(args[0], dtype=dtype, device=_numbered(device))
        return func(*args, **kwargs)


def _to(tensor: Dev, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    if device is not None and device.type == STATE.kind and device.index is None:
        device = torch.device(STATE.kind, STATE.current)
    if device is None or device == tensor.place:
        if dtype is None or dtype == tensor.dtype:
            return tensor
        with torch._C.DisableTorchFunctionSubclass():
            return torch.Tensor.to(tensor, dtype)
    STATE.leaving = device.type == "cpu"
    try:
        return aten._to_copy.default(tensor, dtype=dtype, device=device)
    finally:
        STATE.leaving = False


class Generator(torch.Generator):
    """A generator of the device that draws what one of the CPU draws."""

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made: Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.kind = torch.device(device).type

    def manual_seed(self, seed: int) -> Generator:
        STATE.seeds[seed & (2**64 - 1)] = self.kind
        super().manual_seed(seed)
        return self


class Double(TorchDispatchMode):
    """Runs every operation on the tensors inside, once the rules allow it."""

    def __enter__(self) -> Double:
        STATE.mode = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        STATE.mode = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.handle(func, args, kwargs or {})

    def handle(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        flat, _ = tree_flatten((args, kwargs))
        mine = [value for value in flat if isinstance(value, Dev)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        arriving = target is not None and target.type == STATE.kind
        if not mine and not arriving:
            return func(*args, **kwargs)
        device = mine[0].place if mine else _numbered(target)
        crossing = _crossing(func, args, bool(mine), arriving, target)
        _check_devices(func, flat, device)
        _count_tf32(func)
        if func in SYNCHRONIZING or crossing == "to the CPU":
            STATE.syncs[f"{where()} {func}"] += 1
        taper = STATE.taper
        if taper is not None and device.index != STATE.capture_device:
            STATE.elsewhere += 1
            taper = None
        if taper is not None and (func in SYNCHRONIZING or crossing):
            raise NotCapturable(f"{func} ({crossing or 'synchronizes'}) at {where()}")
        if crossing == "to the CPU":
            wanted = kwargs.get("dtype") if func is aten._to_copy.default else args[0].dtype
            _check_float64(wanted, func)  # Metal converts before it copies
        inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
        if inner_kwargs.get("device") is not None:
            inner_kwargs["device"] = torch.device("cpu")
        if taper is not None:
            taper.protect(func, inner_args, inner_kwargs)
        result = func(*inner_args, **inner_kwargs)
        if taper is not None:
            taper.tape(func, inner_args, inner_kwargs, result)
        if crossing == "to the CPU":
            return args[0] if func is aten.copy_.default else result
        known = {id(value.held): value for value in mine} if _writes(func) else {}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, Dev):
                return value
            if id(value) in known:  # in place, or out=
                return known[id(value)]
            _check_float64(value.dtype, func)
            return Dev(value, device)

        return tree_map(wrap, result)


def _inner(value: Any) -> Any:
    return value.held if isinstance(value, Dev) else value


def _numbered(device: torch.device | None) -> torch.device:
    index = None if device is None else device.index
    return torch.device(STATE.kind, STATE.current if index is None else index)


def _crossing(
    func: Any, args: Any, leaves: bool, arriving: bool, target: torch.device | None
) -> str:
    """Which way an operation copies between the CPU and the device, if it does."""
    if func is aten._to_copy.default:
        if leaves and STATE.leaving and target is not None and target.type == "cpu":
            return "to the CPU"
        return "" if leaves or not arriving else "from the CPU"
    if func is aten.copy_.default and isinstance(args[0], Dev) != isinstance(args[1], Dev):
        return "to the CPU" if isinstance(args[1], Dev) else "from the CPU"
    return ""


def _check_devices(func: Any, flat: list[Any], device: torch.device) -> None:
    for value in flat:
        if isinstance(value, torch.Generator):
            kind = STATE.seeds.get(value.initial_seed() & (2**64 - 1), "cpu")
            if kind != STATE.kind:
                raise Mismatch(f"{func}: generator of {kind} for {device} at {where()}")
        if not isinstance(value, torch.Tensor) or func in (
            aten.copy_.default,
            aten._to_copy.default,
        ):
            continue
        if isinstance(value, Dev):
            if value.place != device:
                raise Mismatch(f"{func}: {value.place} beside {device} at {where()}")
        elif value.dim() > 0 and value.device.type == "cpu":
            if func not in INDEXING:
                raise Mismatch(f"{func}: CPU {tuple(value.shape)} beside {device} at {where()}")
            if STATE.taper is not None:
                raise NotCapturable(f"{func} with a CPU index at {where()}")


def _check_float64(dtype: torch.dtype | None, func: Any) -> None:
    if STATE.refuse_float64 and dtype is torch.float64:
        raise NoFloat64(f"float64 on {STATE.kind}: {func} at {where()}")


def _count_tf32(func: Any) -> None:
    settings: Any = torch.backends
    if func in MATMULS:
        new = hasattr(settings.cuda.matmul, "fp32_precision")
        rounded = (
            settings.cuda.matmul.fp32_precision == "tf32"
            if new
            else settings.cuda.matmul.allow_tf32
        )
    elif func in CONVOLUTIONS:
        conv = getattr(settings.cudnn, "conv", None)
        rounded = settings.cudnn.allow_tf32 if conv is None else conv.fp32_precision == "tf32"
    else:
        return
    if rounded:
        step = os.path.join("training", "step.py")
        within = any(frame.filename.endswith(step) for frame in traceback.extract_stack())
        STATE.tf32["a training step" if within else where()] += 1


def _writes(func: Any) -> bool:
    return any(True for _ in _written(func, (), {}, names_only=True))


def _written(
    func: Any, args: Any, kwargs: dict[str, Any], names_only: bool = False
) -> Iterator[Any]:
    """The arguments that an operation writes to."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if names_only:
            yield argument.name
        elif argument.name in kwargs:
            yield kwargs[argument.name]
        elif index < len(args):
            yield args[index]


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Taper:
    """Operations as they run; what they overwrite is restored, as recording computes nothing."""

    def __init__(self) -> None:
        self._ops: list[tuple[Any, Any, Any, Any, bool]] = []
        self._saved: dict[int, tuple[Any, Any]] = {}
        self._made: set[int] = set()

    def protect(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        for tensor in _tensors(list(_written(func, args, kwargs))):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._saved.keys() | self._made:
                self._saved[storage.data_ptr()] = storage, storage.clone()

    def tape(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        given = {_address(tensor) for tensor in _tensors((args, kwargs))}
        made = {_address(tensor) for tensor in _tensors(result)} - given
        self._made |= made
        if made or _writes(func):  # else it is a view
            self._ops.append((func, args, kwargs, result, bool(made)))

    def restore(self) -> None:
        for storage, content in self._saved.values():
            storage.copy_(content)

    def replay(self) -> None:
        with torch.no_grad(), no_dispatch():
            for func, args, kwargs, result, made in self._ops:
                again = func(*args, **kwargs)
                pairs = zip(_tensors(result), _tensors(again), strict=True) if made else ()
                for kept, new in pairs:
                    if _address(kept) != _address(new):
                        kept.copy_(new)


class CUDAGraph:
    """As `torch.cuda.CUDAGraph`."""

    taper: Taper

    def replay(self) -> None:
        STATE.replays += 1
        self.taper.replay()


class Stream:
    """As `torch.cuda.Stream`."""

    def __init__(self, device: Any = None) -> None:
        self.device = _numbered(None if device is None else torch.device(device))

    def wait_stream(self, other: Stream) -> None:
        """Streams of the double never run ahead."""


@contextlib.contextmanager
def record(graph: CUDAGraph, *, stream: Stream | None = None) -> Iterator[None]:
    """As `torch.cuda.graph`, whose own stream is made once, on the device that was current then."""
    graph.taper = STATE.taper = Taper()
    STATE.capture_device = 0 if stream is None else stream.device.index
    try:
        yield
    finally:
        STATE.taper = None
        graph.taper.restore()
        STATE.records += 1


@contextlib.contextmanager
def current(device: Any) -> Iterator[None]:
    """As `torch.cuda.device`, and as `torch.cuda.stream` of a stream of that device."""
    before, STATE.current = STATE.current, _numbered(torch.device(device)).index or 0
    try:
        yield
    finally:
        STATE.current = before


@contextlib.contextmanager
def double(kind: str = "cuda", *, devices: int = 1, memory: int = 8 << 30) -> Iterator[State]:
    """Within this, torch has `devices` GPUs of this kind: `cuda`, or `mps`, without float64."""
    STATE.__init__()  # type: ignore[misc]
    STATE.kind, STATE.refuse_float64, STATE.memory = kind, kind == "mps", memory
    STATE.records = STATE.replays = STATE.elsewhere = STATE.current = 0
    ensure_guard: Any = getattr(torch._C, "_ensureCUDADeviceGuardSet", None)
    if ensure_guard is None:
        raise unittest.SkipTest("this torch cannot be told of a device that is not there")
    ensure_guard()
    with contextlib.ExitStack() as stack:

        def put(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        for name, value in _cuda(kind, devices).items():
            put(torch.cuda, name, value)
        put(torch.backends.mps, "is_available", lambda: kind == "mps")
        put(torch.mps, "recommended_max_memory", lambda: STATE.memory)
        put(torch.mps, "driver_allocated_memory", lambda: 0)
        put(torch, "Generator", Generator)
        put(torch, "inference_mode", torch.no_grad)  # a wrapper cannot be an inference tensor
        put(torch, "autocast", _autocast(torch.autocast))
        grouped = _grouped(Optimizer._group_tensors_by_device_and_dtype)
        put(Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped))
        conversion = torch.__future__.set_overwrite_module_params_on_conversion
        stack.callback(conversion, torch.__future__.get_overwrite_module_params_on_conversion())
        conversion(True)
        if kind == "mps":
            stack.enter_context(Numbered())
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(Double())  # type: ignore[no-untyped-call]
        yield STATE


def _cuda(kind: str, devices: int) -> dict[str, Any]:
    """What takes the place of functions of `torch.cuda`."""
    return {
        "is_available": lambda: kind == "cuda",
        "device_count": lambda: devices,
        "_lazy_init": lambda: None,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: current(stream.device),
        "CUDAGraph": CUDAGraph,
        "graph": record,
        "device": current,
        "current_device": lambda: STATE.current,
        "set_device": lambda device: setattr(STATE, "current", torch.device(device).index or 0),
        "synchronize": lambda *device: None,
        "is_bf16_supported": lambda *options: True,
        "mem_get_info": lambda device=None: (STATE.memory, STATE.memory),
        "get_device_name": lambda *device: "a double of CUDA",
        "get_device_capability": lambda *device: (3, 5),
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "get_device_properties": lambda *device: types.SimpleNamespace(
            name="a double of CUDA", total_memory=STATE.memory
        ),
    }


def _autocast(real: Any) -> Any:
    """`torch.autocast` of the CPU in the place of the device's, as C++ takes a Dev to be there."""

    def autocast(device_type: str, dtype: Any = None, enabled: bool = True) -> Any:
        kind = "cpu" if device_type == STATE.kind else device_type
        return real(kind, dtype=dtype, enabled=enabled)

    return autocast


def _grouped(real: Any) -> Any:
    """The grouping of an optimizer's tensors, by the device they say they are on."""

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        found = {}
        for (device, dtype), value in real(lists, with_indices).items():
            said = [
                tensor.device for part in value[0] for tensor in part if isinstance(tensor, Dev)
            ]
            found[said[0] if said else device, dtype] = value
        return found

    return grouped
