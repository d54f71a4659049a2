"""Precision of matrix products in training; everything else stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vaecli.config import Precision
from vaecli.errors import EnvironmentFailure, UsageError


def require(precision: Precision, device: torch.device) -> None:
    """Check that `device` supports `precision`, before any work.

    Raises:
        UsageError: no device of this kind does.
        EnvironmentFailure: this one does not.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UsageError(
            f"--precision tf32: {device.type} does not support it, only CUDA does",
            "Choose fp32 or bf16.",
        )
    if precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        raise EnvironmentFailure(
            "--precision bf16: this processor does not support bfloat16 products",
            "Leave --precision out.",
        )


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Context of a forward pass: matrix products in bfloat16 if asked for, with float32 weights.

    The model gives its outputs in the type of its inputs all the same.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def exactness(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context of a forward and backward pass: TF32 on CUDA if asked for."""
    if device.type != "cuda":
        yield
        return
    with tf32(precision == "tf32"):
        yield


@contextmanager
def inference() -> Iterator[None]:
    """The context, or decorator, of all that is not training: no gradients, all of float32."""
    with torch.inference_mode(), tf32(False):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """The context, or decorator, in which CUDA may or may not round factors to TF32.

    Convolutions are rounded unless told otherwise.  From torch 2.9 on each kind of operation has a
    setting of its own; reading the older flags then raises where the two kinds differ.
    """
    matmul, convolution = torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None)
    wanted: str | bool = allowed
    if convolution is not None and hasattr(matmul, "fp32_precision"):
        places, name = (matmul, convolution), "fp32_precision"
        wanted = "tf32" if allowed else "ieee"
    else:
        places, name = (matmul, torch.backends.cudnn), "allow_tf32"
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, wanted)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


def cpu_has_bf16() -> bool:
    """Whether this processor, and this build of torch, have bfloat16 products."""
    if not torch.backends.mkldnn.is_available():  # such a build cannot even be asked
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported
