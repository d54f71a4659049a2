"""Prepared data sets on disk: one safetensors file each, checked by hash when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from vaecli.data.dataset import Dataset, Images
from vaecli.data.named.class_names import class_names
from vaecli.errors import DataError
from vaecli.system import files

FORMAT = "vaecli-data-1"
LIMIT = 1024**3  # bytes of a cache file
_HEADER_LIMIT = 64 * 1024
_LABELS = (np.uint8, np.int64)


def cache_path(name: str, data_dir: Path) -> Path:
    """Where the prepared set `name` is kept: in a folder of its own, beside its lock."""
    return data_dir / "vaecli" / name / "images.safetensors"


def write_cache(path: Path, dataset: Dataset) -> None:
    """Write `dataset` to `path` in one rename, with the SHA-256 of its tensors.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {}
    for split, images in (("train", dataset.train), ("test", dataset.test)):
        tensors[f"{split}_pixels"] = np.ascontiguousarray(images.pixels[:])
        if images.labels is not None:
            tensors[f"{split}_labels"] = np.ascontiguousarray(images.labels)
    metadata = {"format": FORMAT, "name": dataset.name, "sha256": dataset.fingerprint()}
    files.save(path, safetensors.save(tensors, metadata=metadata))


def read_cache(path: Path, name: str) -> Dataset:
    """Read what `write_cache` wrote.

    Raises:
        DataError: it is damaged, of another format or of another set.
        OSError: it cannot be read.
    """
    try:
        data = files.read_capped(path, LIMIT)
        metadata = _metadata(data)
        if metadata.get("format") != FORMAT or metadata.get("name") != name:
            raise ValueError(f"it is not a cache of {name} in the format {FORMAT}")
        tensors = safetensors.load(data)
        train, test = (_images(tensors, name, split) for split in ("train", "test"))
        dataset = Dataset(name, train, test)
        if dataset.fingerprint() != metadata.get("sha256"):
            raise ValueError("damaged: its content does not have the recorded SHA-256")
    except (ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise DataError(f"data cache: {path}: {error}") from None
    return dataset


def _metadata(data: bytes) -> dict[str, object]:
    length = int.from_bytes(data[:8], "little")
    if length > min(_HEADER_LIMIT, len(data) - 8):
        raise ValueError("damaged: its header is truncated or too long")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("damaged: its header holds no metadata")
    return metadata


def _images(tensors: dict[str, NDArray[Any]], name: str, split: str) -> Images:
    pixels, labels = tensors.get(f"{split}_pixels"), tensors.get(f"{split}_labels")
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4 or not pixels.size:
        raise ValueError(f"damaged: it holds no {split} images")
    if labels is not None and (labels.dtype not in _LABELS or labels.shape != pixels.shape[:1]):
        raise ValueError(f"damaged: its {split} labels do not match its images")
    return Images(pixels, labels, classes=class_names(name))
