"""Latents in a file: `.npy`, or the CSV that `eval --per-image --latents` writes."""

from __future__ import annotations

import csv
import io
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaecli.data import npy
from vaecli.errors import DataError
from vaecli.system import files
from vaecli.system.size_limits import MAX_LATENTS_BYTES, MAX_LATENTS_CSV_BYTES


def read_latents(path: Path, latent_dim: int) -> NDArray[np.float32]:
    """Read latents (N, L) as float32.

    Args:
        path: `.npy` of shape (N, L) or (L,), or CSV with columns z0, z1, ... among others.
        latent_dim: L of the model that is to decode them.

    Raises:
        DataError: the file is damaged, or its latents are not the model's.
    """
    try:
        if path.suffix == ".npy":
            values = _read_npy(files.read_capped(path, MAX_LATENTS_BYTES))
        else:
            values = _read_csv(files.read_capped(path, MAX_LATENTS_CSV_BYTES))
    except OSError as error:
        raise DataError(f"--latents {path}: {error.strerror}", "Check the path.") from None
    except (ValueError, csv.Error) as error:
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
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(
            f"--latents {path}: it holds numbers that are NaN, infinite or beyond float32",
            "Use latents of this very model.",
        )
    return values


def _read_npy(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    shape, fortran, dtype = npy.read_header(stream)
    if dtype.kind not in "fiu":
        raise ValueError("it is not an array of numbers")
    # checked before numpy allocates what the header asks for
    if prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its size does not match its header")
    values = np.frombuffer(data, dtype, offset=stream.tell())
    return np.atleast_2d(values.reshape(shape, order="F" if fortran else "C"))


def _read_csv(data: bytes) -> np.ndarray:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    names = [name for name in rows.fieldnames or () if name[:1] == "z" and name[1:].isdecimal()]
    names.sort(key=lambda name: int(name[1:]))
    if names != [f"z{index}" for index in range(len(names))] or not names:
        raise ValueError("it has no columns z0, z1, ...")
    try:
        values = [[float(row[name]) for name in names] for row in rows]
    except (TypeError, ValueError):
        raise ValueError("a latent is not a number") from None
    return np.array(values or np.empty((0, len(names))), dtype=np.float64)
