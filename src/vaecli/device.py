"""Where to compute: a name from the command line becomes a torch device."""

from __future__ import annotations

import torch

from vaecli import launch
from vaecli.errors import EnvironmentFailure, UsageError


def resolve(name: str) -> torch.device:
    """The device called `name`: auto, cpu, cuda or cuda:N.

    Under torchrun, auto and cuda mean the GPU with the number that a process has on its machine.

    Raises:
        UsageError: there is no device of that kind.
        EnvironmentFailure: this machine or this build of torch does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and launch.by_torchrun():
        name = f"cuda:{launch.local_rank()}"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"--device {name}: no such device", "Choose auto, cpu, cuda or cuda:N.")
    if kind == "cuda":
        _require_cuda(name, int(index or 0))
    if kind == "mps":
        # sums over images are kept in float64 on the device
        raise EnvironmentFailure(
            "--device mps: vaecli sums its losses in float64, which Metal does not have",
            "Use --device cpu.",
        )
    return torch.device(name)


def require_working(device: torch.device) -> None:
    """See that something can be computed there, before work is spent.

    Raises:
        EnvironmentFailure: the driver, or another process, does not let it.
    """
    try:
        torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        why = (str(error).splitlines() or ["it does not answer"])[0]
        raise EnvironmentFailure(f"--device {device}: {why}", "Use --device cpu.") from None


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
