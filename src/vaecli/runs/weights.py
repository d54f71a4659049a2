"""Write and read safetensors files with JSON metadata, checking everything that is read.

A file carries one metadata key, `vaecli`: canonical JSON with the format, what the file says
about itself, and a SHA-256 of the tensor bytes.  Equal content gives equal bytes.  Header,
configuration, names and shapes are checked before memory is allocated.

The safetensors library writes, but each tensor is read by itself: the library holds the whole file
beside a copy of every tensor, and to read 36 MB of weights took 68 MB where it takes 39.  All are
checked, but only those are kept that are wanted.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from vaecli.config import FORMAT, ModelConfig, refuse_newer
from vaecli.errors import ModelError
from vaecli.model import network
from vaecli.system.files import open_regular
from vaecli.system.size_limits import MAX_HEADER_BYTES, MAX_PARAMETERS
from vaecli.system.strict_json import canonical_json, parse_json
from vaecli.system.typed_json import from_json, to_json

METADATA_KEY = "vaecli"
HALF = "half"
"""Key of the info that says the tensors are stored as fp16."""
DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}
BLOCK = 1 << 20
"""Bytes of a tensor that are checked at once, where it is not kept."""

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of the type, such as float32, and shape of each tensor."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Header:
    """The checked header of a file.

    Attributes:
        info: the JSON stored beside the tensors.
        shapes: dtype and shape by tensor name, as the file states them.
        sha256: digest the tensors must have.
        start: where the tensors begin, in bytes from the start of the file.
        places: where each tensor begins and ends, from there.
    """

    info: dict[str, Any]
    shapes: Shapes
    sha256: str
    start: int
    places: Mapping[str, tuple[int, int]]


def encode(tensors: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> bytes:
    """The bytes of a file that holds `tensors` and the JSON object `info`."""
    # the library writes an array's memory as it lies
    plain = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    plain = {name: array.reshape(tensors[name].shape) for name, array in plain.items()}
    about = {"format": FORMAT, "info": info, "sha256": digest(plain)}
    return safetensors.numpy.save(plain, {METADATA_KEY: canonical_json(about)})


def digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    result = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        result.update(_described(name, tensor.dtype, tensor.shape))
        result.update(np.ascontiguousarray(tensor).data)
    return result.hexdigest()


def _described(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return f"{name}:torch.{dtype}:{shape};".encode()


def encode_model(
    config: ModelConfig, tensors: Mapping[str, NDArray[Any]], *, half: bool = False
) -> bytes:
    """The bytes of a loose weights file: the model's tensors and its configuration.

    Args:
        config: of the model.
        tensors: its parameters by name.
        half: store them as fp16, which `read_model` widens again.
    """
    if half:
        tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    info = {"model": to_json(config)}
    return encode(tensors, {**info, HALF: True} if half else info)


class ModelFile(NamedTuple):
    """What a weights file holds.

    Attributes:
        config: of the model.
        tensors: its parameters by name, float32.
    """

    config: ModelConfig
    tensors: Arrays


def read_model(path: Path, *, without: str | None = None) -> ModelFile:
    """The model in a weights file.

    Args:
        path: of the file.
        without: what the names begin with of weights that are checked, but not kept.

    Raises:
        ModelError: anything about the file is not as `encode_model` writes it.
        OSError: it cannot be opened.
    """
    with open_weights(path) as file:
        try:
            header = read_header(file)
            config = from_json(ModelConfig, header.info.get("model"), where="model")
            stored = "float16" if header.info.get(HALF) is True else "float32"
            expected = {
                name: (stored, shape) for name, shape in network.of(config).shapes().items()
            }
            _check_count(expected)
            tensors = read_tensors(file, header, expected, without=without)
        except ValueError as error:
            raise ModelError(f"{path}: {error}", _REMEDY) from None
    return ModelFile(
        config, {name: tensor.astype("f4", copy=False) for name, tensor in tensors.items()}
    )


def open_weights(path: Path) -> BinaryIO:
    """Open a regular file for reading; anything else is a ModelError."""
    try:
        return open_regular(path)
    except ValueError as error:
        raise ModelError(f"{path}: {error}", _REMEDY) from None


def largest_file(shapes: Shapes) -> int:
    """Upper limit of the size of a file with these tensors, in bytes."""
    return (
        8
        + MAX_HEADER_BYTES
        + sum(np.dtype(dtype).itemsize * prod(size) for dtype, size in shapes.values())
    )


def read_header(file: BinaryIO) -> Header:
    """Parse and check the header; reads no tensor bytes.

    Raises:
        ValueError: the header is not one that `encode` writes.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length_bytes = file.read(8)
    if len(length_bytes) < 8:
        raise ValueError("it is too short to be a safetensors file")
    (length,) = struct.unpack("<Q", length_bytes)
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError("it is not a safetensors file, or it is truncated")
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    info, sha256 = _about(header.pop("__metadata__", None))
    shapes = {name: _shape(name, entry) for name, entry in header.items()}
    places = {name: _place(name, entry) for name, entry in header.items()}
    return Header(info, shapes, sha256, 8 + length, places)


def read_tensors(
    file: BinaryIO, header: Header, expected: Shapes, *, without: str | None = None
) -> Arrays:
    """Read the tensors of a checked header.

    Args:
        file: it.
        header: as `read_header` gives it.
        expected: names, types and shapes that it must have.
        without: what the names begin with of tensors that are checked, but not kept.

    Raises:
        ValueError: names or shapes differ from `expected`, bytes are missing or left over, the
            digest does not match, or a number is NaN or infinite.
    """
    differing = sorted(
        name
        for name in header.shapes.keys() | expected.keys()
        if header.shapes.get(name) != expected.get(name)
    )
    if differing:
        described = ", ".join(
            f"{name[:80]!r} is {_describe(header.shapes.get(name))}"
            f" instead of {_describe(expected.get(name))}"
            for name in differing[:3]
        )
        raise ValueError(f"{len(differing)} tensors do not fit its configuration: {described}")
    places = sorted(header.places.items(), key=lambda entry: entry[1])
    stop = 0
    for name, place in places:
        dtype, shape = expected[name]
        start, stop = stop, stop + np.dtype(dtype).itemsize * prod(shape)
        if place != (start, stop):
            raise ValueError(f"it is damaged: its header misplaces tensor {name[:80]!r}")
    if header.start + stop != file.seek(0, io.SEEK_END):
        raise ValueError("it is damaged: its tensors do not fill it")
    tensors, found, damaged = Arrays(), hashlib.sha256(), list[str]()
    for name, (dtype, shape) in sorted(expected.items()):
        count = prod(shape)
        kept = without is None or not name.startswith(without)
        block = count if kept else min(count, BLOCK // np.dtype(dtype).itemsize)
        tensor = np.empty(block, dtype)
        found.update(_described(name, tensor.dtype, shape))
        file.seek(header.start + header.places[name][0])
        for start in range(0, count, max(1, block)):
            part = tensor[: count - start]
            # every file opened for reading bytes has it, but not the type of one
            file.readinto(part.view(np.uint8))  # type: ignore[attr-defined]
            found.update(part.data)
            if not np.isfinite(part).all():
                damaged.append(name)
        if kept:
            tensors[name] = tensor.reshape(shape)
    if found.hexdigest() != header.sha256:
        raise ValueError("it is damaged: its tensors do not match their recorded SHA-256")
    if damaged:
        raise ValueError(f"tensor {damaged[0]!r} holds NaN or infinite numbers")
    return tensors


def _about(metadata: object) -> tuple[dict[str, Any], str]:
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ValueError("it was not written by vaecli: it carries no configuration")
    about = parse_json(text.encode())
    if not isinstance(about, dict) or type(about.get("format")) is not int:
        raise ValueError("its configuration is not one vaecli writes")
    refuse_newer(about["format"])
    info, sha256 = about.get("info"), about.get("sha256")
    if about["format"] < 1 or not isinstance(info, dict) or not isinstance(sha256, str):
        raise ValueError("its configuration is not one vaecli writes")
    return info, sha256


def _shape(name: str, entry: object) -> tuple[str, tuple[int, ...]]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape]} if dtype in DTYPES and not _has_bool(shape):
            return DTYPES[dtype], tuple(shape)
    raise ValueError(f"its entry for tensor {name[:80]!r} is malformed")


def _place(name: str, entry: dict[str, Any]) -> tuple[int, int]:
    match entry.get("data_offsets"):
        case [int(start), int(stop)] if not _has_bool([start, stop]):
            return start, stop
    raise ValueError(f"it is damaged: its header does not place tensor {name[:80]!r}")


def _has_bool(values: Sequence[object]) -> bool:
    """Whether JSON's true or false is among them, which Python takes for the numbers 1 and 0."""
    return any(isinstance(value, bool) for value in values)


def _check_count(shapes: Shapes) -> None:
    count = sum(prod(shape) for _, shape in shapes.values())
    if count > MAX_PARAMETERS:
        raise ValueError(f"it asks for {count:,} parameters, more than {MAX_PARAMETERS:,}")


def _describe(entry: tuple[str, tuple[int, ...]] | None) -> str:
    if entry is None:
        return "absent"
    shape = "x".join(map(repr, entry[1]))[:80] or "a number"
    return f"{shape} {entry[0]}"


_REMEDY = "Use another run, or train again."
