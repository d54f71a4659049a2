"""Where to compute: a name from the command line becomes a torch device, and what it can do."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from vaecli.errors import EnvironmentFailure, UsageError
from vaecli.system import torchrun
from vaecli.system.callbacks import Report, no_report

_SHARE = 0.5
"""Of a GPU's free memory, for a set of images; the rest is for the work on them."""


def resolve(name: str, report: Report = no_report) -> torch.device:
    """The device called `name`: auto, cpu, cuda, cuda:N or mps.

    Under torchrun, auto and cuda mean the GPU with the number that a process has on its machine.

    Args:
        name: as given with --device.
        report: told why `auto` does not take a GPU that is there.

    Raises:
        UsageError: there is no device of that kind.
        EnvironmentFailure: this machine or this build of torch does not have it, or it does not
            work.
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
    if kind != "cpu" and not torchrun.by_torchrun():  # else all processes check, and agree
        require_working(device)
    return device


def require_working(device: torch.device) -> None:
    """Check that something can be computed there, before work is spent.

    Raises:
        EnvironmentFailure: the driver, the build of torch or another process does not let it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's words about an old GPU; ours follow
            torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        why = (str(error).splitlines() or ["it does not answer"])[0]
        hint = "Use --device cpu."
        if "no kernel image" in why:
            why = _unserved(device)
            hint = "Install a build of torch for this GPU (pytorch.org), or use --device cpu."
        raise EnvironmentFailure(f"--device {device}: {why}", hint) from None


def has_float64(device: torch.device) -> bool:
    """Whether it knows float64; Apple's Metal does not."""
    return device.type != "mps"


def float64_home(device: torch.device) -> torch.device:
    """Where sums in float64 are kept for work on `device`: there, or on the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def in_float64(values: Tensor) -> Tensor:
    """The values in float64, on `float64_home` of their device."""
    return values.to(float64_home(values.device)).double()


def memory_for_images(device: torch.device) -> float:
    """Bytes of images that are moved to `device` whole; those of a larger set go batch by batch."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return _SHARE * free
    if device.type == "mps":
        return _SHARE * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return math.inf


def _best(report: Report) -> torch.device:
    """The GPU where one works, else the CPU."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        try:
            return resolve("cuda")
        except EnvironmentFailure as error:
            if torchrun.by_torchrun():  # the others may have got theirs
                raise
            report(f"computing on the CPU: {error.message.removeprefix('--device cuda: ')}")
    elif told:  # such as a driver that is too old
        report(f"computing on the CPU: {str(told[0].message).splitlines()[0]}")
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


def _unserved(device: torch.device) -> str:
    """Which GPU this is, and which ones the build of torch has code for."""
    major, minor = torch.cuda.get_device_capability(device)
    served = " ".join(torch.cuda.get_arch_list()) or "none"
    return (
        f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(device)}"
        f" (sm_{major}{minor}); it has code for {served}"
    )
