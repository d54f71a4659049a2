"""`reconstruct --heatmap`: what surprise is, what is dark, which files are written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from conftest import Vaecli
from vaecli.config import ModelConfig
from vaecli.data.dataset import Images
from vaecli.data.named import idx
from vaecli.errors import ExitCode
from vaecli.evaluation import heatmap
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.model.vae import as_float, build
from vaecli.pictures import sheets
from vaecli.runs import held_out
from vaecli.runs.directory import HELD_OUT, WEIGHTS
from vaecli.runs.held_out import Surprise
from vaecli.runs.load import load_model

Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _in_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_NO_DOWNLOAD", "1")


@pytest.fixture
def digits(data_dir: Path) -> NDArray[np.uint8]:
    """The test digits, (130, 1, 28, 28)."""
    return idx.read_idx(data_dir / "MNIST/raw/t10k-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)


@pytest.fixture
def added(digits: NDArray[np.uint8]) -> Path:
    """A digit with a bar in its upper left corner."""
    image = digits[0, 0].copy()
    image[2:5, 2:9] = 255
    Image.fromarray(image).save("added.png")
    return Path("added.png")


def blurred(image: Floats, deviation: float) -> Floats:
    """A Gaussian blur by its definition, each pixel by itself."""
    reach = int(np.ceil(3 * deviation))
    padded = np.pad(image, reach, "edge")
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * deviation**2))
    weights /= weights.sum()
    found = np.empty_like(image)
    for y, x in np.ndindex(image.shape):
        found[y, x] = (weights * padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1]).sum()
    return found


# --- the formulas --------------------------------------------------------------------------------


def test_surprise_is_the_cross_entropy_above_that_of_the_pixel(
    trained: Path, digits: NDArray[np.uint8]
) -> None:
    """Against torch: binary cross-entropy at the mean latent, less its least possible value."""
    loaded = load_model(str(trained))
    x = as_float(torch.as_tensor(digits[:3]))
    with torch.no_grad():
        logits = loaded.model.decoder(loaded.model.encode(x)[0])
        each = functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        floor = functional.binary_cross_entropy(x, x, reduction="none")
    found = heatmap.surprise(NumpyVAE(loaded.config, loaded.weights), digits[:3])
    for mine, expected in zip(found, (each - floor)[:, 0].double().numpy(), strict=True):
        np.testing.assert_allclose(mine, blurred(expected, 1.0), atol=2e-3)
    assert found.min() >= 0


def test_smoothing_grows_with_the_picture_and_keeps_its_sides_apart() -> None:
    maps = np.random.default_rng(0).random((2, 30, 56)).astype(np.float32)
    for mine, image in zip(heatmap.smooth(maps), maps, strict=True):
        np.testing.assert_allclose(mine, blurred(image.astype(float), 2.0), rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic", "logistic-mixture"])
def test_other_likelihoods_have_no_floor(likelihood: str) -> None:
    """For colour too: -log p of all channels, summed over the picture, is the distortion."""
    from vaecli.model.bounds import log_likelihood

    shape = (3, 16, 16)
    config = ModelConfig(image_shape=shape, hidden=(8,), latent_dim=2, likelihood=likelihood)  # type: ignore[arg-type]
    model = build(config, seed=0)
    pixels = np.full((1, *shape), 77, np.uint8)  # smoothing leaves what is even as it is
    with torch.no_grad():
        for parameter in model.decoder.output.parameters():
            parameter.zero_()  # the same parameters everywhere
        x = as_float(torch.as_tensor(pixels))
        expected = -log_likelihood(x, model.decoder(torch.zeros(1, 2)), *model.likelihood)
    found = heatmap.surprise(NumpyVAE(config, model.weights()), pixels)
    np.testing.assert_allclose(found.sum(), expected.item(), rtol=1e-4)
    np.testing.assert_allclose(found, found.mean(), rtol=1e-4)


def test_half_of_the_held_out_images_are_dark_and_one_in_a_hundred_is_brightest() -> None:
    rng = np.random.default_rng(0)
    maps = rng.gamma(2, 1, (2000, 6, 5)).astype(np.float32)
    mean = maps.mean(0)
    usual = Surprise(mean, np.sort((maps - mean).max((1, 2))))
    heat = heatmap.heat(maps, usual)
    assert (heat.max((1, 2)) == 0).mean() == pytest.approx(0.5, abs=1e-3)
    assert (heat.max((1, 2)) == 1).mean() == pytest.approx(0.01, abs=1e-3)
    assert heat.min() == 0


def test_what_is_no_number_is_hot() -> None:
    usual = Surprise(np.zeros((1, 3), np.float32), np.array([1, 2, 3], np.float32))
    heat = heatmap.heat(np.array([[[0, np.nan, np.inf]]], np.float32), usual)
    assert heat.tolist() == [[[0, 1, 1]]]


def test_a_run_keeps_the_surprise_of_its_test_images(
    trained: Path, digits: NDArray[np.uint8]
) -> None:
    loaded = load_model(str(trained))
    kept = held_out.read(loaded, "a test").surprise
    maps = heatmap.surprise(NumpyVAE(loaded.config, loaded.weights), digits)
    np.testing.assert_allclose(kept.mean, maps.mean(0), atol=1e-3)
    np.testing.assert_allclose(kept.peaks, np.sort((maps - maps.mean(0)).max((1, 2))), atol=1e-3)


def test_of_many_images_some_are_measured(
    monkeypatch: pytest.MonkeyPatch, trained: Path, digits: NDArray[np.uint8]
) -> None:
    loaded = load_model(str(trained))
    runner = NumpyVAE(loaded.config, loaded.weights)
    monkeypatch.setattr(heatmap, "MOST_VALUES", 28 * 28 * 4)
    places = [0, 43, 86, 129]
    few, same = heatmap.measure(runner, Images(digits)), Images(digits[places])
    np.testing.assert_array_equal(few.mean, heatmap.measure(runner, same).mean)
    assert few.peaks.shape == (4,)


# --- the picture ---------------------------------------------------------------------------------


def test_a_normal_picture_is_itself_in_grey_and_heat_gets_lighter() -> None:
    """Lighter in the luminance that every kind of colour vision keeps."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 8), dtype=np.uint8)
    plain = sheets.heated(pixels, np.zeros((1, 4, 8), np.float32))
    grey = np.asarray(Image.fromarray(pixels[0].transpose(1, 2, 0)).convert("L"))
    assert np.abs(plain[0].astype(float) - sheets.DIMMED * grey).max() <= 1
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[None, None]
    bar = sheets.heated(np.zeros((1, 1, 1, 8), np.uint8), ramp)[0, :, 0].T / 255
    luminance = np.where(bar > 0.04, ((bar + 0.055) / 1.055) ** 2.4, bar / 12.92)
    steps = np.diff(luminance @ [0.2126, 0.7152, 0.0722])
    assert (steps > 0.01).all()
    assert luminance[-1] @ [0.2126, 0.7152, 0.0722] > 0.9


def test_a_picture_is_large_enough_for_its_legend() -> None:
    for shape, size in (
        ((1, 28, 28), (224, 224)),
        ((3, 16, 64), (64, 256)),
        ((1, 9, 3), (225, 224)),
    ):
        pixels, heat = np.zeros(shape, np.uint8), np.zeros(shape[1:], np.float32)
        found = sheets.heatmap(pixels, heat)
        assert found.shape == (3, size[0] + 38, size[1])
        assert (found[:, -38:] < 128).any()  # the words


# --- the command ---------------------------------------------------------------------------------


def hottest(path: str | Path) -> tuple[int, int]:
    """The pixel of a digit with the brightest colour in its picture of heat."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)[:224, :224]
    colour = (picture.max(2) - picture.min(2)) * picture[..., 0]
    y, x = np.unravel_index(colour.argmax(), colour.shape)
    return int(y) // 8, int(x) // 8


def test_an_added_stroke_is_where_the_heat_is(vaecli: Vaecli, trained: Path, added: Path) -> None:
    outcome = vaecli("reconstruct", added, "-m", trained, "--heatmap")
    assert outcome.code == 0
    assert outcome.out.splitlines() == ["added.recon.png", "added.heatmap.png"]
    y, x = hottest("added.heatmap.png")
    assert 1 <= y <= 5
    assert 1 <= x <= 9
    loaded = load_model(str(trained))
    runner = NumpyVAE(loaded.config, loaded.weights)
    pixels = np.asarray(Image.open(added))[None]
    heat = heatmap.heat(
        heatmap.surprise(runner, pixels[None]), held_out.read(loaded, "a test").surprise
    )
    expected = Image.fromarray(sheets.heatmap(pixels, heat[0]).transpose(1, 2, 0))
    assert Image.open("added.heatmap.png").tobytes() == expected.tobytes()


def test_files_lie_beside_the_pictures_and_are_not_written_over(
    vaecli: Vaecli, trained: Path, added: Path
) -> None:
    asked = ("reconstruct", added, "-m", trained, "--heatmap")
    assert vaecli(*asked, "-o", "out.png").out.splitlines() == ["out.png", "out.heatmap.png"]
    Path("out.png").unlink()
    before = Path("out.heatmap.png").read_bytes()
    Path("out.heatmap.png").write_text("mine")
    assert vaecli(*asked, "-o", "out.png").code == ExitCode.USAGE
    assert Path("out.heatmap.png").read_text() == "mine"
    assert not Path("out.png").exists()
    assert vaecli(*asked, "-o", "out.png", "-f").code == 0
    assert Path("out.heatmap.png").read_bytes() == before
    for number in ("", "-2"):
        names = [f"added.recon{number}.png", f"added.heatmap{number}.png"]
        assert vaecli(*asked).out.splitlines() == names


def test_folders_are_mirrored(vaecli: Vaecli, trained: Path, added: Path) -> None:
    for name in ("in/a.png", "in/deep/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(added.read_bytes())
    outcome = vaecli("reconstruct", "in", "-m", trained, "-o", "out", "--heatmap", "--json")
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["heatmap"] for line in found] == ["out/a.heatmap.png", "out/deep/b.heatmap.png"]
    assert Path("out/a.heatmap.png").read_bytes() == Path("out/deep/b.heatmap.png").read_bytes()


def test_the_grid_gets_a_third_row(
    vaecli: Vaecli, trained: Path, digits: NDArray[np.uint8]
) -> None:
    assert vaecli("reconstruct", "-m", trained, "--heatmap", "-o", "all.png").code == 0
    assert vaecli("reconstruct", "-m", trained, "-o", "pairs.png").code == 0
    three, two = (np.asarray(Image.open(path).convert("RGB")) for path in ("all.png", "pairs.png"))
    assert three.shape[1] == two.shape[1]
    row = 58  # a digit at twice its size, and a gap
    assert three.shape[0] == two.shape[0] + 2 * row + 38
    np.testing.assert_array_equal(three[: 2 * row], two[: 2 * row])
    dimmed = three[2 * row + 2 : 3 * row : 2, 2:58:2]
    cold = dimmed.max(2) == dimmed.min(2)
    assert cold.mean() > 0.9
    np.testing.assert_array_equal(dimmed[cold][:, 0], np.rint(0.5 * digits[0, 0])[cold])


def test_the_grid_of_test_images_goes_to_stdout(vaecli: Vaecli, trained: Path) -> None:
    assert vaecli("reconstruct", "-m", trained, "--heatmap", "-o", "all.png").code == 0
    words = ["reconstruct", "-m", str(trained), "--heatmap", "-o", "-"]
    command = [sys.executable, "-m", "vaecli", *words]
    done = subprocess.run(command, capture_output=True, check=True)
    assert Image.open(io.BytesIO(done.stdout)).tobytes() == Image.open("all.png").tobytes()


def test_sampled_latents_give_another_heat(vaecli: Vaecli, trained: Path, added: Path) -> None:
    asked = ("reconstruct", added, "-m", trained, "--heatmap")
    assert vaecli(*asked, "-o", "mean.png").code == 0
    assert vaecli(*asked, "-o", "drawn.png", "--sample").code == 0
    assert Path("mean.heatmap.png").read_bytes() != Path("drawn.heatmap.png").read_bytes()


@pytest.mark.parametrize("sample", [(), ("--sample",)])
def test_each_picture_is_decoded_once_and_looks_as_without_a_heat_map(
    vaecli: Vaecli,
    trained: Path,
    digits: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    sample: tuple[str, ...],
) -> None:
    counts = {"encode": 0, "decode": 0}

    def counted(name: str) -> Callable[..., object]:
        whole = getattr(NumpyVAE, name)

        def call(self: NumpyVAE, first: Floats, *rest: object) -> object:
            counts[name] += len(first)
            return whole(self, first, *rest)

        return call

    for name in counts:
        monkeypatch.setattr(NumpyVAE, name, counted(name))
    Path("in").mkdir()
    for index, digit in enumerate(digits[:40]):  # more than a batch
        Image.fromarray(digit[0]).save(f"in/{index}.png")
    asked = ("reconstruct", "in", "-m", trained, *sample, "-o")
    assert vaecli(*asked, "plain").code == 0
    assert vaecli(*asked, "hot", "--heatmap").code == 0
    assert counts == {"encode": 80, "decode": 80}
    for path in Path("plain").iterdir():
        assert Path("hot", path.name).read_bytes() == path.read_bytes()


def test_what_cannot_be_done_is_exit_2(vaecli: Vaecli, trained: Path, added: Path) -> None:
    outcome = vaecli("reconstruct", added, "-m", trained, "--heatmap", "-o", "-")
    assert (outcome.code, outcome.out) == (ExitCode.USAGE, "")
    assert "stdout" in outcome.err
    outcome = vaecli("reconstruct", added, "-m", trained / WEIGHTS, "--heatmap")
    assert outcome.code == ExitCode.USAGE
    assert "held-out" in outcome.err
    assert not Path("added.recon.png").exists()


@pytest.mark.parametrize("arch", ["conv", "grid"])
def test_colour_runs_have_heat_maps_too(vaecli: Vaecli, arch: str) -> None:
    pixels = np.random.default_rng(0).integers(90, 110, (40, 3, 16, 16)).astype(np.uint8)
    np.save("set.npy", pixels.transpose(0, 2, 3, 1))
    shape = ("--arch", arch, "--hidden", "4", "--latent-dim", "2")
    asked = ("train", "-d", "set.npy", "-e", "2", "-b", "8", "-q", "-o", "run", *shape)
    assert vaecli(*asked).code == 0
    pixels[0, :, 4:8, 9:13] = np.array([220, 40, 180])[:, None, None]
    Image.fromarray(pixels[0].transpose(1, 2, 0)).save("spot.png")
    assert vaecli("reconstruct", "spot.png", "-m", "run", "--heatmap", "-q").code == 0
    picture = np.asarray(Image.open("spot.heatmap.png")).astype(int)[:224]
    warm = np.argwhere(picture.max(2) - picture.min(2) > 40) // 14
    assert len(warm)
    assert (abs(warm.mean(0) - [5.5, 10.5]) < 1).all()
    assert Path("run", HELD_OUT).is_file()
