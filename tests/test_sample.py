from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaecli as api
from conftest import Vaecli
from vaecli.errors import DataError, ExitCode
from vaecli.latents import read_latents


def test_grid(vaecli: Vaecli, trained: Path) -> None:
    assert vaecli("sample", "-m", trained).out == "samples.png\n"
    assert vaecli("sample", "-m", trained).out == "samples-2.png\n"
    first, second = (Path(name).read_bytes() for name in ("samples.png", "samples-2.png"))
    assert first == second
    assert vaecli("sample", "-m", trained, "-n", "6", "--columns", "3", "-o", "g.png").code == 0
    height, width = np.asarray(Image.open("g.png")).shape
    assert width > height
    assert vaecli("sample", "-m", trained, "-o", "g.png").code == ExitCode.USAGE
    assert vaecli("sample", "-m", trained, "-o", "g.gif").code == ExitCode.USAGE


def test_folder_and_array_hold_the_same_images(vaecli: Vaecli, trained: Path) -> None:
    out = vaecli("sample", "-m", trained, "-n", "5", "-o", "many/").out.splitlines()
    assert out == [f"many/sample-00{index}.png" for index in range(5)]
    assert vaecli("sample", "-m", trained, "-n", "5", "-o", "a.npy").out == "a.npy\n"
    array = np.load("a.npy")
    assert array.shape == (5, 1, 28, 28)
    assert array.dtype == np.uint8
    for index, path in enumerate(out):
        assert (np.asarray(Image.open(path)) == array[index, 0]).all()
    expected = api.load(trained).sample(5).numpy() * 255
    assert np.abs(array - expected).max() <= 0.51


def test_seed_and_temperature(vaecli: Vaecli, trained: Path) -> None:
    for name, options in {
        "a": [],
        "b": ["--seed", "0"],
        "c": ["--seed", "1"],
        "cold": ["--temperature", "0"],
    }.items():
        assert vaecli("sample", "-m", trained, "-n", "3", *options, "-o", f"{name}.npy").code == 0
    arrays = {name: np.load(f"{name}.npy") for name in ("a", "b", "c", "cold")}
    assert (arrays["a"] == arrays["b"]).all()
    assert (arrays["a"] != arrays["c"]).any()
    assert (arrays["cold"] == arrays["cold"][:1]).all()


def test_latents_from_files(vaecli: Vaecli, trained: Path) -> None:
    latents = np.linspace(-1, 1, 16).reshape(2, 8)
    np.save("z.npy", latents)
    columns = [f"z{index}" for index in range(8)]
    rows = [",".join(["0", *map(repr, row.tolist())]) for row in latents]
    Path("z.csv").write_text("\n".join([",".join(["index", *columns]), *rows]) + "\n")
    for name in ("npy", "csv"):
        assert (
            vaecli("sample", "-m", trained, "--latents", f"z.{name}", "-o", f"{name}.npy").code == 0
        )
    assert (np.load("npy.npy") == np.load("csv.npy")).all()
    expected = api.load(trained).decode(latents).numpy() * 255
    assert np.abs(np.load("npy.npy") - expected).max() <= 0.51


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "0"],
        ["--columns", "0"],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["-n", "3", "--latents", "z.npy"],
        ["-o", "-", "--json"],
    ],
)
def test_bad_values(vaecli: Vaecli, trained: Path, arguments: list[str]) -> None:
    assert vaecli("sample", "-m", trained, *arguments).code == ExitCode.USAGE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"index,z1\n0,1\n",
        b"z0,z1\n1\n",
        b"z0,z1\n1,x\n",
        b"z0,z1\n1,nan\n",
        b"\xff",
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_bad_latents(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"z{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="--latents"):
        read_latents(path, 2)


def test_pickled_latents_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError):
        read_latents(tmp_path / "z.npy", 1)


def test_stdout(trained: Path) -> None:
    command = [sys.executable, "-m", "vaecli", "sample", "-q", "-o", "-", "-m", str(trained)]
    outcome = subprocess.run(command, capture_output=True, check=True)
    assert Image.open(io.BytesIO(outcome.stdout)).format == "PNG"


def test_json(vaecli: Vaecli, trained: Path) -> None:
    result = json.loads(vaecli("sample", "-m", trained, "-n", "2", "--json").out)
    assert result == {"schema_version": 1, "outputs": ["samples.png"], "n_images": 2}
