"""Channels by content, and how pictures of another shape are brought to one size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Vaecli
from vaecli.data.dataset import Dataset, join
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading
from vaecli.errors import ExitCode

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 16, 16), dtype=np.uint8)
SMALL = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "-q", "--data-dir", "cache")


def load(path: Path, said: list[str] | None = None, **options: Any) -> Dataset:
    dataset = prepare.load(path, Options(**options), Reading(path.parent / "cache"))
    if said is not None:
        said += dataset.account.notes
    return dataset


# ------------------------------------------------------------------ channels


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif", "webp", "jpg"])
def test_grey_pictures_in_colour_files_have_one_channel(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "p").mkdir()
    for place, image in enumerate(GREY):
        options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
        picture = Image.fromarray(image).convert("RGB")
        picture.save(tmp_path / f"p/{place}.{suffix}", **options)
    dataset = load(tmp_path / "p")
    assert dataset.image_shape == (1, 16, 16)
    images = join([dataset.train, dataset.test])
    assert images.paths is not None
    for pixels, path in zip(images.pixels[:], images.paths, strict=True):
        expected = GREY[int(path.split(".")[0])]
        if suffix == "jpg":
            expected = np.asarray(Image.open(tmp_path / "p" / path).convert("L"))
        assert np.array_equal(pixels[0], expected)
    assert load(tmp_path / "p", channels=3).image_shape == (3, 16, 16)
    coloured = Image.fromarray(GREY[0]).convert("RGB")
    coloured.putpixel((3, 4), (200, 10, 10))
    coloured.save(tmp_path / "p/colour.png")
    assert load(tmp_path / "p").image_shape == (3, 16, 16)


def test_grey_arrays_of_three_channels_have_one(tmp_path: Path) -> None:
    colour = np.repeat(GREY[..., None], 3, 3)
    np.save(tmp_path / "last.npy", colour)
    np.save(tmp_path / "first.npy", colour.transpose(0, 3, 1, 2))
    for name in ("last", "first"):
        dataset = load(tmp_path / f"{name}.npy")
        assert dataset.image_shape == (1, 16, 16)
        assert sorted(join([dataset.train, dataset.test]).pixels[:].sum((1, 2, 3)).tolist()) == (
            sorted(GREY.sum((1, 2)).tolist())
        )
    assert load(tmp_path / "last.npy", channels=3).image_shape == (3, 16, 16)
    colour[7, 3, 2, 1] ^= 1
    np.save(tmp_path / "last.npy", colour)
    assert load(tmp_path / "last.npy").image_shape == (3, 16, 16)


def test_a_colour_model_takes_a_grey_folder_and_array(vaecli: Vaecli) -> None:
    colour = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    np.save("colour.npy", colour)
    assert vaecli("train", "--data", "colour.npy", *SMALL, "-o", "run").code == 0
    np.save("grey.npy", np.repeat(colour[:5, ..., :1], 3, 3))
    Path("grey").mkdir()
    Image.fromarray(colour[0, ..., 0]).save("grey/0.png")
    for data in ("grey.npy", "grey"):
        outcome = vaecli("eval", "-m", "run", "-d", data, "--data-dir", "cache", "--json")
        assert outcome.code == 0, outcome.err


# ------------------------------------------------------------------ size and fit


def wide(path: Path) -> None:
    """A white page of 16 x 32 with a dark band at its left and right end."""
    path.parent.mkdir(exist_ok=True)
    pixels = np.full((16, 32), 230, np.uint8)
    pixels[2:14, 1:4] = pixels[2:14, 28:31] = 20
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_crop_pad_and_stretch(tmp_path: Path, suffix: str) -> None:
    for place in range(4):
        wide(tmp_path / f"p/{place}.{suffix}")

    def first(fit: str) -> np.ndarray[Any, Any]:
        pixels = np.asarray(load(tmp_path / "p", image_size=16, fit=fit).train.pixels)
        plane: np.ndarray[Any, Any] = pixels[0, 0].astype(int)
        return plane

    crop, pad, stretch = map(first, ("crop", "pad", "stretch"))
    assert abs(crop - 230).max() < 8  # both bands are cut off
    assert abs(pad[:4] - 230).max() < 8  # bars of the colour of the edge
    assert abs(pad[12:] - 230).max() < 8
    half = np.asarray(
        Image.open(tmp_path / f"p/0.{suffix}").resize((16, 8), Image.Resampling.BICUBIC)
    )
    assert abs(pad[4:12] - half).max() < 8
    full = np.asarray(
        Image.open(tmp_path / f"p/0.{suffix}").resize((16, 16), Image.Resampling.BICUBIC)
    )
    assert abs(stretch - full).max() < 8
    assert stretch.min() < 60
    assert pad.min() < 60


def test_height_and_width_can_be_asked_for(vaecli: Vaecli) -> None:
    for place in range(12):
        wide(Path(f"p/{place}.png").absolute())
    found = vaecli("train", "--data", "p", "--image-size", "8x16", *SMALL, "--dry-run", "--json")
    assert json.loads(found.out)["model"]["image_shape"] == [1, 8, 16]
    square = vaecli("train", "--data", "p", "--image-size", "8", *SMALL, "--dry-run", "--json")
    assert json.loads(square.out)["model"]["image_shape"] == [1, 8, 8]
    for size in ("8x", "8x9x10", "0x8", "big", "2000x8"):
        outcome = vaecli("train", "--data", "p", "--image-size", size, *SMALL, "--dry-run")
        assert outcome.code == ExitCode.USAGE, size
        assert "--image-size" in outcome.err


@pytest.mark.parametrize(("width", "said"), [(16, False), (21, False), (22, True), (64, True)])
def test_much_that_is_cropped_is_said(tmp_path: Path, width: int, said: bool) -> None:
    """More than a quarter of the typical picture: of 16 x 21 it is 0.238, of 16 x 22 0.273."""
    (tmp_path / "p").mkdir()
    for place in range(9):
        size = (width, 16) if place < 5 else (16, 16)
        Image.new("L", size, 90).save(tmp_path / f"p/{place}.png")
    for _ in "now and from the cache":
        notes: list[str] = []
        load(tmp_path / "p", notes, image_size=16)
        assert any("of a typical picture" in note for note in notes) == said
    notes = []
    load(tmp_path / "p", notes, image_size=16, fit="pad")
    assert not any("of a typical picture" in note for note in notes)


def test_fit_is_recorded_and_repeated(vaecli: Vaecli) -> None:
    """`reconstruct --fit auto` brings a picture to the pixels that training saw."""
    for place in range(12):
        wide(Path(f"p/{place}.png").absolute())
    command = ("train", "--data", "p", "--image-size", "16", "--fit", "pad", *SMALL, "-o", "run")
    assert vaecli(*command).code == 0
    assert json.loads(Path("run/config.json").read_text())["model"]["fit"] == "pad"
    assert vaecli(*command).code == 0  # finished: the same settings
    assert vaecli(*command, "--fit", "crop").code == ExitCode.USAGE
    assert vaecli("export", "-m", "run", "--format", "safetensors", "-o", "w.safetensors").code == 0
    trained = load(Path("p").absolute(), image_size=16, fit="pad").train.pixels[:][0, 0]
    for model in ("run", "w.safetensors"):
        assert vaecli(
            "reconstruct", "p/0.png", "-m", model, "--compare", "-f", "-o", "pair.png"
        ).code == 0  # fmt: skip
        assert np.array_equal(np.asarray(Image.open("pair.png").convert("L"))[:, :16], trained)
    cropped = vaecli(
        "reconstruct", "p/0.png", "-m", "run", "--fit", "crop", "--compare", "-o", "c.png"
    )
    assert cropped.code == 0
    assert np.asarray(Image.open("c.png").convert("L"))[:, :16].min() > 200
