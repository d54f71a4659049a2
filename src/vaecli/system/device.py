"""Turns --device into a torch device, and tells what that device supports."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from vaecli.errors import EnvironmentFailure, UsageError
from vaecli.system import torchrun
from vaecli.system.callbacks import Report, no_report

_SHARE = 0.5
"""Largest share of a GPU's free memory that a set of images may take."""


def resolve(name: str, report: Report = no_report) -> torch.device:
    """The device called `name`: auto, cpu, cuda, cuda:N or mps.

    Under torchrun, auto and cuda mean the GPU whose number is the local rank of this process.

    Args:
        name: as given with --device.
        report: called with the reason if `auto` does not use a GPU of this machine.

    Raises:
        UsageError: no device has this name.
        EnvironmentFailure: the machine or the build of torch lacks the device, or it fails.
    """
    if name == "auto":
        return _best(report)
    if name == "cuda" and torchrun.by_torchrun():
        name = f"cuda:{torchrun.local_rank()}"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(
            f"--device {name}: no such device", "Choose auto, cpu, cuda, cuda:N or mps."
        )
    if kind == "cuda":
        _require_cuda(name, int(index or 0))
    if kind == "mps":
        _require_mps()
    device = torch.device(name)
    if kind != "cpu" and not torchrun.by_torchrun():  # under torchrun the group checks together
        require_working(device)
    return device


def require_working(device: torch.device) -> None:
    """Compute something small on `device`, so that a device that fails is noticed at the start.

    Raises:
        EnvironmentFailure: the driver, the build of torch or another process prevents it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an old GPU: the error below says it
            torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        why = (str(error).splitlines() or ["it does not answer"])[0]
        hint = "Use --device cpu."
        if "no kernel image" in why:
            why = _unsupported(device)
            hint = "Install a build of torch for this GPU (pytorch.org), or use --device cpu."
        raise EnvironmentFailure(f"--device {device}: {why}", hint) from None


def has_float64(device: torch.device) -> bool:
    """Whether the device has float64; Apple's Metal does not."""
    return device.type != "mps"


def float64_home(device: torch.device) -> torch.device:
    """The device for float64 sums of work on `device`: itself, or the CPU if it lacks float64."""
    return device if has_float64(device) else torch.device("cpu")


def in_float64(values: Tensor) -> Tensor:
    """Convert to float64, on the CPU if the device has no float64."""
    return values.to(float64_home(values.device)).double()


def memory_for_images(device: torch.device) -> float:
    """Bytes up to which a set of images moves to `device` whole; a larger one moves by batches."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return _SHARE * free
    if device.type == "mps":
        return _SHARE * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return math.inf


def _best(report: Report) -> torch.device:
    """The GPU where one works, else the CPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        try:
            return resolve("cuda")
        except EnvironmentFailure as error:
            if torchrun.by_torchrun():  # other processes may be on their GPUs already
                raise
            report(f"computing on the CPU: {error.message.removeprefix('--device cuda: ')}")
    elif caught:  # such as a driver that is too old
        report(f"computing on the CPU: {str(caught[0].message).splitlines()[0]}")
    elif torch.backends.mps.is_available():
        report(
            "computing on the CPU: small models gain little on an Apple GPU, and vaecli has not"
            " been measured on one; --device mps uses it"
        )
    return torch.device("cpu")


def _require_cuda(name: str, index: int) -> None:
    if not torch.cuda.is_available():
        build = torch.version.cuda
        why = "finds no usable GPU or driver" if build else "is a build without CUDA"
        raise EnvironmentFailure(
            f"--device {name}: torch {torch.__version__} {why}", "Use --device cpu."
        )
    if index >= torch.cuda.device_count():
        raise EnvironmentFailure(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0",
            "Name one of them, or use --device auto.",
        )


def _require_mps() -> None:
    if torchrun.by_torchrun():
        raise UsageError(
            "--device mps: torchrun's processes cannot share gradients on an Apple GPU",
            "Train in one process, or use --device cpu.",
        )
    if not torch.backends.mps.is_available():
        built = torch.backends.mps.is_built()
        why = "finds no Apple GPU it can use" if built else "is a build without Metal"
        raise EnvironmentFailure(
            f"--device mps: torch {torch.__version__} {why}", "Use --device cpu."
        )


def _unsupported(device: torch.device) -> str:
    """Which GPU this is, and for which ones the build of torch has code."""
    major, minor = torch.cuda.get_device_capability(device)
    supported = " ".join(torch.cuda.get_arch_list()) or "none"
    return (
        f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(device)}"
        f" (sm_{major}{minor}); it has code for {supported}"
    )
