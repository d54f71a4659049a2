from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image

import vaecli as api
from conftest import Vaecli
from vaecli.data import catalogue
from vaecli.data.latents_file import read_latents
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ExitCode
from vaecli.evaluation import generation
from vaecli.model.vae import TorchRunner
from vaecli.runs.load import load_model


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


def test_pixels_are_drawn_by_seed_and_place(vaecli: Vaecli, trained: Path) -> None:
    np.save("z.npy", np.zeros((400, 8)))
    kinds = {"mean": (), "drawn": ("--draw-pixels",), "other": ("--draw-pixels", "--seed", "1")}
    for name, options in kinds.items():
        asked = ("--latents", "z.npy", *options, "-o", f"{name}.npy")
        assert vaecli("sample", "-m", trained, *asked).code == 0
    mean, drawn, other = (np.load(f"{name}.npy").astype(float) for name in kinds)
    assert set(np.unique(drawn)) == {0, 255}  # as a Bernoulli draws
    assert (drawn != other).any()
    assert len(np.unique(drawn.reshape(400, -1), axis=0)) == 400
    error = np.sqrt((255 * mean[0] + 255) / 400)  # of an average of 400, at most
    assert (np.abs(drawn.mean(0) - mean[0]) < 5 * error).all()
    # the model in torch gives the same draws, but for a pixel whose chance is rounded otherwise
    runner = TorchRunner(load_model(str(trained)).model)
    by_torch = generation.decode(runner, np.zeros((400, 8), "f4"), pixel_seed=0)
    assert (by_torch != drawn).mean() < 1e-4
    for count in ("3", "10"):
        outcome = vaecli(
            "sample", "-m", trained, "-n", count, "--draw-pixels", "-o", count + ".npy"
        )
        assert outcome.code == 0
    assert (np.load("3.npy") == np.load("10.npy")[:3]).all()
    through_api = api.load(trained).sample(3, draw_pixels=True)
    assert (through_api.numpy() * 255 != np.load("3.npy")).mean() < 1e-3


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "0"],
        ["--interpolate", "0", "1", "--draw-pixels"],
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


def decoded(trained: Path, latents: np.ndarray) -> np.ndarray:
    return np.asarray(api.load(trained).decode(latents)) * 255


def test_interpolation(vaecli: Vaecli, trained: Path, data_dir: Path) -> None:
    assert vaecli("reconstruct", "-m", trained, "--data-dir", data_dir).code == 0
    common = ("sample", "-m", trained, "--data-dir", data_dir, "--interpolate")
    assert vaecli(*common, "3", "7", "-o", "a.npy").code == 0
    assert vaecli(*common, "3", "7", "--path", "linear", "--steps", "5", "-o", "b.npy").code == 0
    test = catalogue.load("mnist", Reading(data_dir, download=False)).test
    mean, _ = api.load(trained).encode(test.pixels[:][[3, 7]])
    ends = np.load("a.npy")
    assert ends.shape == (8, 1, 28, 28)
    assert np.abs(ends[[0, -1]] - decoded(trained, mean.numpy())).max() <= 0.51
    middle = decoded(trained, mean.mean(0, keepdim=True).numpy())
    assert np.abs(np.load("b.npy")[2] - middle).max() <= 0.51
    # an image file that holds the test image is the test image
    Image.fromarray(np.asarray(test.pixels[3:4])[0, 0]).save("three.png")
    assert vaecli(*common, "three.png", "7", "-o", "c.npy").code == 0
    assert (np.load("c.npy") == ends).all()
    assert vaecli(*common, "3", "7").out == "samples.png\n"
    assert vaecli(*common, "3", "7", "-o", "walk.gif").code == 0
    with Image.open("walk.gif") as film:
        assert film.n_frames == 14  # type: ignore[attr-defined]
    assert vaecli(*common, "3", "130").code == ExitCode.USAGE
    assert vaecli(*common, "3", "none.png").code == ExitCode.DATA


def test_traversal_and_manifold(vaecli: Vaecli, trained: Path, data_dir: Path) -> None:
    common = ("sample", "-m", trained, "--data-dir", data_dir)
    result = json.loads(vaecli("eval", "-m", trained, "--data-dir", data_dir, "--json").out)
    order = np.argsort(-np.array(result["kl_per_dim"]), kind="stable")
    latents = np.zeros((8, 7, 8), np.float32)
    for row, dimension in enumerate(order):
        latents[row, :, dimension] = np.linspace(-3, 3, 7)
    assert vaecli(*common, "--traverse", "--steps", "7", "-o", "t.npy").code == 0
    found = np.load("t.npy")
    assert np.abs(found - decoded(trained, latents.reshape(56, 8))).max() <= 0.51
    assert vaecli(*common, "--traverse", "--around", "2", "-o", "t/").code == 0
    assert len(list(Path("t").iterdir())) == 8 * 13
    quantiles = [NormalDist().inv_cdf((index + 0.5) / 4) for index in range(4)]
    latents = np.zeros((4, 4, 8), np.float32)
    latents[:, :, order[0]] = quantiles
    latents[:, :, order[1]] = np.array(quantiles)[::-1, None]
    assert vaecli(*common, "--manifold", "--steps", "4", "-o", "m.npy").code == 0
    assert np.abs(np.load("m.npy") - decoded(trained, latents.reshape(16, 8))).max() <= 0.51
    assert vaecli(*common, "--manifold", "-o", "m.png").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--interpolate", "0", "1", "--traverse"],
        ["--manifold", "--latents", "z.npy"],
        ["--manifold", "-n", "4"],
        ["--traverse", "--prior", "gmm"],
        ["--traverse", "--columns", "3"],
        ["--interpolate", "0", "1", "--temperature", "0.5"],
        ["--around", "1"],
        ["--steps", "3"],
        ["--traverse", "--steps", "1"],
        ["--traverse", "-o", "t.gif"],
    ],
)
def test_contradictions(vaecli: Vaecli, trained: Path, arguments: list[str]) -> None:
    assert vaecli("sample", "-m", trained, *arguments).code == ExitCode.USAGE


def test_a_loose_weights_file_needs_data_to_walk(
    vaecli: Vaecli, trained: Path, data_dir: Path
) -> None:
    weights = trained / "model.safetensors"
    assert vaecli("sample", "-m", weights, "--traverse").code == ExitCode.USAGE
    common = ("--data-dir", data_dir, "--data", "mnist")
    assert vaecli("sample", "-m", weights, "--traverse", *common).code == 0
