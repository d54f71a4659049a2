"""Latents in a file: `.npy`, or the CSV that `eval --per-image --latents` writes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaecli import files
from vaecli.errors import DataError

MAX_BYTES = 1 << 30


def read_latents(path: Path, latent_dim: int) -> Tensor:
    """Read latents (N, L) as float32.

    Args:
        path: `.npy` of shape (N, L) or (L,), or CSV with columns z0, z1, ... among others.
        latent_dim: L of the model that is to decode them.

    Raises:
        DataError: the file is damaged, or its latents are not the model's.
    """
    try:
        data = files.read_capped(path, MAX_BYTES)
        values = _read_npy(data) if path.suffix == ".npy" else _read_csv(data)
    except OSError as error:
        raise DataError(f"--latents {path}: {error.strerror}", "Check the path.") from None
    except ValueError as error:
        raise DataError(
            f"--latents {path}: {error}",
            "Give a .npy of numbers, or a .csv with columns z0, z1, ...",
        ) from None
    if values.ndim != 2 or values.shape[1] != latent_dim or not len(values):
        shape = "x".join(map(str, values.shape))
        raise DataError(
            f"--latents {path}: it holds {shape} numbers, the model needs N x {latent_dim}",
            "Use latents of this very model.",
        )
    if not np.isfinite(values).all():
        raise DataError(f"--latents {path}: it holds NaN or infinite numbers")
    return torch.from_numpy(values.astype(np.float32))


def _read_npy(data: bytes) -> np.ndarray:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (EOFError, OSError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ValueError("it is no array of numbers")
    return np.atleast_2d(values)


def _read_csv(data: bytes) -> np.ndarray:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    names = [name for name in rows.fieldnames or () if name[:1] == "z" and name[1:].isdecimal()]
    names.sort(key=lambda name: int(name[1:]))
    if names != [f"z{index}" for index in range(len(names))] or not names:
        raise ValueError("it has no columns z0, z1, ...")
    try:
        values = [[float(row[name]) for name in names] for row in rows]
    except (TypeError, ValueError):
        raise ValueError("a latent is no number") from None
    return np.array(values or np.empty((0, len(names))), dtype=np.float64)
