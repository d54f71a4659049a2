from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from vaecli.config import ModelConfig
from vaecli.errors import ModelError
from vaecli.model.vae import build
from vaecli.runs import weights

CONFIG = ModelConfig(image_shape=(1, 3, 4), hidden=(5,), latent_dim=2)
MODEL = build(CONFIG, seed=0)
STATE = MODEL.weights()
DATA = weights.encode_model(CONFIG, STATE)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    loaded = weights.read_model(path)
    assert loaded.config == CONFIG
    assert loaded.tensors.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert np.array_equal(loaded.tensors[name], tensor), name


def test_equal_content_gives_equal_bytes() -> None:
    shuffled = dict(reversed(STATE.items()))
    assert weights.encode_model(CONFIG, shuffled) == DATA


def test_the_safetensors_library_alone_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == set(STATE)
        about = json.loads(file.metadata()[weights.METADATA_KEY])
    assert about["info"]["model"]["latent_dim"] == 2


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    """DATA with its header changed."""
    (length,) = struct.unpack("<Q", DATA[:8])
    header = json.loads(DATA[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + DATA[8 + length :]


def about(**changes: object) -> bytes:
    """DATA with the configuration in its header changed."""

    def change(header: dict[str, Any]) -> None:
        content = json.loads(header["__metadata__"]["vaecli"])
        for key, value in changes.items():
            target = content if key in content else content["info"]["model"]
            target[key] = value
        header["__metadata__"]["vaecli"] = json.dumps(content)

    return edited(change)


def set_offsets(header: dict[str, Any]) -> None:
    header["encoder.mean.bias"]["data_offsets"] = [0, 2**40]


def overlap(header: dict[str, Any]) -> None:
    """Two tensors of one size lie in one place, and the last bytes belong to none."""
    header["encoder.mean.bias"]["data_offsets"] = header["encoder.log_variance.bias"][
        "data_offsets"
    ]


def no_place(header: dict[str, Any]) -> None:
    del header["encoder.mean.bias"]["data_offsets"]


def true_shape(header: dict[str, Any]) -> None:
    header["decoder.log_scale"] = {**header["encoder.mean.bias"], "shape": [True]}


def true_place(header: dict[str, Any]) -> None:
    header["encoder.mean.bias"]["data_offsets"][0] = False


def rename(header: dict[str, Any]) -> None:
    header["../../etc/passwd"] = header.pop("encoder.mean.bias")


def nan_weights() -> bytes:
    state = {**STATE, "encoder.mean.bias": np.full(2, np.nan, np.float32)}
    return weights.encode_model(CONFIG, state)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (DATA[:100], "truncated"),
        (DATA[:-1], "do not fill it"),
        (DATA + b"\0", "do not fill it"),
        (DATA[:-1] + bytes([DATA[-1] ^ 1]), "SHA-256"),
        (struct.pack("<Q", 2**60) + DATA[8:], "not a safetensors file"),
        (b"<html>" * 100, "not a safetensors file"),
        (edited(lambda header: header.pop("__metadata__")), "not written by vaecli"),
        (edited(set_offsets), "misplaces tensor"),
        (edited(overlap), "misplaces tensor"),
        (edited(no_place), "does not place tensor"),
        (edited(true_place), "does not place tensor"),
        (edited(true_shape), "malformed"),
        (edited(rename), "do not fit"),
        (about(format=99), "upgrade vaecli"),
        (about(format="1"), "not one vaecli writes"),
        (about(hidden=[10**9]), "hidden"),
        (about(hidden=[65536, 65536]), "parameters"),
        (about(latent_dim=3), "do not fit"),
        (about(sha256="0" * 64), "SHA-256"),
        (nan_weights(), "NaN"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=words):
        weights.read_model(path)
    with pytest.raises(ModelError, match=words):
        weights.read_model(path, without="")


@pytest.mark.parametrize("block", [4, 64, 1 << 20])
def test_weights_that_are_not_wanted_are_checked_all_the_same(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BLOCK", block)
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    loaded = weights.read_model(path, without="encoder.").tensors
    assert loaded.keys() == {name for name in STATE if name.startswith("decoder.")}
    assert all(np.array_equal(loaded[name], STATE[name]) for name in loaded)
    for name in ("encoder.mean.bias", "encoder.hidden.0.weight"):
        changed = {each: values.copy() for each, values in STATE.items()}
        changed[name].flat[-1] = np.inf
        path.write_bytes(weights.encode_model(CONFIG, changed))
        with pytest.raises(ModelError, match=f"{name}.*infinite"):
            weights.read_model(path, without="encoder.")
    begin = weights.read_header(io.BytesIO(DATA))
    for place in range(begin.start, len(DATA), 5):
        path.write_bytes(DATA[:place] + bytes([DATA[place] ^ 1]) + DATA[place + 1 :])
        with pytest.raises(ModelError, match="SHA-256"):
            weights.read_model(path, without="encoder.")


def test_every_truncation_is_refused() -> None:
    expected = weights.read_header(io.BytesIO(DATA)).shapes
    for length in range(0, len(DATA), 7):
        file = io.BytesIO(DATA[:length])
        with pytest.raises(ValueError, match=r"."):
            weights.read_tensors(file, weights.read_header(file), expected)


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    with pytest.raises(ModelError, match="not a regular file"):
        weights.read_model(path)
