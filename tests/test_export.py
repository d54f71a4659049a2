from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from conftest import Vaecli
from vaecli.errors import ExitCode


def test_a_loose_file_serves_every_command(
    vaecli: Vaecli, trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    outcome = vaecli("export", "-m", trained, "--format", "safetensors")
    assert outcome.out == "run.safetensors\n"
    loose = tmp_path / "run.safetensors"
    assert loose.read_bytes() == (trained / "model.safetensors").read_bytes()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save("black.png")
    data = ["--data-dir", data_dir]
    whole = vaecli("eval", "-m", trained, "--json", *data)
    part = vaecli("eval", "-m", loose, "-d", "mnist", "--split", "test", "--json", *data)
    assert json.loads(whole.out)["loss"] == json.loads(part.out)["loss"]
    assert vaecli("reconstruct", "black.png", "-m", loose).code == 0
    assert vaecli("sample", "-m", loose).code == 0
    assert vaecli("export", "-m", loose, "-o", "again.safetensors").code == 0
    assert Path("again.safetensors").read_bytes() == loose.read_bytes()
    unnamed = vaecli("eval", "-m", loose)
    assert unnamed.code == ExitCode.USAGE
    assert "--data" in unnamed.err


def test_existing_output_and_json(vaecli: Vaecli, trained: Path) -> None:
    assert vaecli("export", "-m", trained, "-o", "a.safetensors").code == 0
    assert vaecli("export", "-m", trained, "-o", "a.safetensors").code == ExitCode.USAGE
    result = json.loads(vaecli("export", "-m", trained, "-o", "a.safetensors", "-f", "--json").out)
    assert result["bytes"] == Path("a.safetensors").stat().st_size
    assert vaecli("export", "-m", trained, "--format", "pickle").code == ExitCode.USAGE
