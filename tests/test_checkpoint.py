from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vaecli.errors import ModelError
from vaecli.runs.directory import MANIFEST
from vaecli.runs.weights import Arrays
from vaecli.training.checkpoint import Checkpoints

SHAPES = {"a": ("float32", (3,))}


def state(number: int) -> Arrays:
    return {"a": np.full(3, number, np.float32)}


def filled(folder: Path, count: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(folder, "me")
    for number in range(1, count + 1):
        checkpoints.commit(state(number), {"number": number})
    return checkpoints


def test_the_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    found = Checkpoints(tmp_path, "me").newest(SHAPES)
    assert found is not None
    assert found.info == {"number": 3}
    np.testing.assert_array_equal(found.tensors["a"], state(3)["a"], strict=True)
    assert len(list(tmp_path.glob("generation-*"))) == 2


def test_nothing_committed_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "state", "me").newest(SHAPES) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_generation_costs_progress_only(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    newest = max(tmp_path.glob("generation-*"))
    data = newest.read_bytes()
    if damage == "truncate":
        newest.write_bytes(data[:-5])
    elif damage == "flip":
        newest.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    else:
        newest.unlink()
    warnings: list[str] = []
    found = Checkpoints(tmp_path, "me").newest(SHAPES, warnings.append)
    assert found is not None
    assert found.info == {"number": 2}
    assert len(warnings) == 1
    assert newest.name in warnings[0]


def test_all_damaged_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    for path in tmp_path.glob("generation-*"):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="no state to resume from"):
        Checkpoints(tmp_path, "me").newest(SHAPES)


def test_a_generation_without_its_manifest_does_not_count(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    manifest = (tmp_path / MANIFEST).read_bytes()
    filled(tmp_path, 1)
    (tmp_path / MANIFEST).write_bytes(manifest)  # as if the process died before the rename
    found = Checkpoints(tmp_path, "me").newest(SHAPES)
    assert found is not None
    assert found.info == {"number": 2}


def test_another_run_s_state_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(ModelError, match="another configuration"):
        Checkpoints(tmp_path, "you")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "generation-1.safetensors", "a\nb"])
def test_a_hostile_file_name_is_refused(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["generations"][0]["file"] = name
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="malformed"):
        Checkpoints(tmp_path, "me")
