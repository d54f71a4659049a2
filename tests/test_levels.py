"""Which value means white: decided by the whole set, recorded, and applied to later inputs."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import Vaecli
from vaecli.config import ModelConfig
from vaecli.data.dataset import Dataset, join
from vaecli.data.mapped import Mapped
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ExitCode, UsageError
from vaecli.system.typed_json import to_json

RNG = np.random.default_rng(0)
SMALL = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "-q", "--data-dir", "cache")


def load(path: Path, said: list[str] | None = None, **options: Any) -> Dataset:
    memory = options.pop("memory", None)
    asked = Options(**options)
    dataset = prepare.load(path, asked, Reading(path.parent / "cache", memory=memory))
    if said is not None:
        said += dataset.account.notes
    return dataset


def everything(dataset: Dataset) -> NDArray[np.uint8]:
    """All images, in the order of the file."""
    images = join([dataset.test, dataset.train])
    assert images.paths is not None
    places = [int(path.split("[")[-1].split(".")[0].rstrip("]")) for path in images.paths]
    return np.asarray(images.take(np.argsort(places)).pixels)[:, 0]


def scaled(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """The nearest of 256 levels, in exact arithmetic."""
    levels = [min(int(Fraction(255 * int(v), white) + Fraction(1, 2)), 255) for v in values.flat]
    return np.array(levels, np.uint8).reshape(values.shape)


def values(dtype: str, highest: int) -> NDArray[Any]:
    """Twenty images with values up to `highest`, which one pixel has."""
    found = RNG.integers(0, highest + 1, (20, 6, 5))
    found[7, 2, 3] = highest
    return found.astype(dtype)


WHITES = [
    ("uint8", 1, 1),
    ("uint8", 5, 7),
    ("uint8", 31, 31),
    ("uint8", 32, 255),
    ("uint16", 1, 1),
    ("uint16", 1000, 1023),
    ("uint16", 3800, 4095),
    ("uint16", 8191, 8191),
    ("uint16", 8192, 65535),
    (">u2", 4095, 4095),
    ("int64", 1, 1),
    ("int64", 200, 255),
    ("int32", 300, 511),
    ("uint32", 60_000, 65535),
    ("int16", 255, 255),
    ("bool", 1, 1),
]


@pytest.mark.parametrize(("dtype", "highest", "white"), WHITES)
def test_white_is_decided_by_all_images(
    tmp_path: Path, dtype: str, highest: int, white: int
) -> None:
    """In memory and mapped, as .npy and .npz, against exact arithmetic."""
    array = values(dtype, highest)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "z.npz", images=array)
    said: list[str] = []
    whole = load(tmp_path / "x.npy", said)
    mapped = load(tmp_path / "x.npy", memory=99)
    assert isinstance(mapped.train.pixels, Mapped)
    assert np.array_equal(everything(whole), scaled(array.astype(int), white))
    assert np.array_equal(everything(mapped), everything(whole))
    assert np.array_equal(everything(load(tmp_path / "z.npz")), everything(whole))
    full = {"bool": 1, "uint8": 255, "uint16": 65535}.get(dtype)  # others are integers: noted
    assert any(f"{white:,} counts as white" in text for text in said) == (white != full)
    assert whole.origin is not None
    (levels,) = whole.origin.levels
    assert (levels.highest, levels.range) == (highest, (0, white))


PICTURES = [("uint8", 1, 1), ("uint8", 5, 7), ("uint8", 32, 255), ("uint16", 1000, 1023)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("dtype", "highest", "white"), PICTURES)
def test_pictures_are_decided_together(
    tmp_path: Path, dtype: str, highest: int, white: int, suffix: str
) -> None:
    array = values(dtype, highest)
    (tmp_path / "p").mkdir()
    for place, image in enumerate(array):
        Image.fromarray(image).save(tmp_path / f"p/{place}.{suffix}")
    assert np.array_equal(everything(load(tmp_path / "p")), scaled(array, white))
    full = 255 if dtype == "uint8" else 65535
    as_they_are = load(tmp_path / "p", max_value="full")
    assert np.array_equal(everything(as_they_are), scaled(array, full))


def test_max_value_of_pictures(tmp_path: Path) -> None:
    array = values("uint8", 99)
    array[array > 98] = 90
    array[7, :2, 3] = 99
    (tmp_path / "p").mkdir()
    for place, image in enumerate(array):
        Image.fromarray(image).save(tmp_path / f"p/{place}.png")
    assert np.array_equal(everything(load(tmp_path / "p", max_value=99.0)), scaled(array, 99))
    said: list[str] = []
    load(tmp_path / "p", said, max_value=98.0)
    assert "2 of 600 values lie outside 0 to 98" in " ".join(said)


def test_one_bright_pixel_decides_even_where_resizing_hides_it(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    pixels = np.full((80, 80), 9, np.uint8)
    pixels[40, 40] = 200
    for place in range(6):
        Image.fromarray(pixels).save(tmp_path / f"p/{place}.bmp")
        Image.fromarray(pixels).save(tmp_path / f"p/{place + 6}.jpg", quality=100)
    found = load(tmp_path / "p", image_size=8)
    assert everything(found).max() < 32
    assert found.origin is not None
    assert {levels.range for levels in found.origin.levels} == {(0, 255)}


def test_a_label_map_with_a_palette_of_greys(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    array = values("uint8", 5)
    for place, labels in enumerate(array):
        image = Image.fromarray(labels).convert("P")
        image.putpalette([level for level in range(256) for _ in range(3)])
        image.putdata(labels.flatten().tolist())
        image.save(tmp_path / f"p/{place}.png")
    assert np.array_equal(everything(load(tmp_path / "p")), scaled(array, 7))


def test_each_sample_type_has_its_white(tmp_path: Path) -> None:
    """8-bit pictures among 10-bit ones keep theirs; a black one decides nothing."""
    (tmp_path / "p").mkdir()
    deep, flat = values("uint16", 1000), values("uint8", 200)
    for place in range(10):
        Image.fromarray(deep[place]).save(tmp_path / f"p/{place}.png")
        Image.fromarray(flat[place]).save(tmp_path / f"p/{place + 10}.png")
    Image.new("L", (5, 6)).save(tmp_path / "p/20.png")
    found = everything(load(tmp_path / "p"))
    assert np.array_equal(found[:10], scaled(deep[:10], 1023))
    assert np.array_equal(found[10:20], flat[:10])


def test_max_value_decides_and_clips(tmp_path: Path) -> None:
    array = np.full((20, 10, 10), 90, np.uint16)
    array[3, 0] = 140  # 10 of 2,000 values
    np.save(tmp_path / "x.npy", array)
    said: list[str] = []
    found = everything(load(tmp_path / "x.npy", said, max_value=100.0))
    assert np.array_equal(found, scaled(array, 100))
    assert "10 of 2,000 values lie outside 0 to 100" in " ".join(said)
    with pytest.raises(DataError, match=r"100\.0 % of its 16-bit values"):
        load(tmp_path / "x.npy", max_value=50.0)
    with pytest.raises(UsageError, match="65535"):
        load(tmp_path / "x.npy", max_value=70_000.0)


# ------------------------------------------------------------------ floats


UNIT = RNG.random((20, 6, 5))
UNIT[3, 0, :2] = 0, 1
FLOATS = [
    ("overshoot", UNIT + 1e-7, UNIT),
    ("undershoot", np.where(UNIT < 0.01, -1e-17, UNIT), np.where(UNIT < 0.01, 0, UNIT)),
    ("ringing", np.where(UNIT == 1, 1.1, UNIT), UNIT),
    ("signed", UNIT * 2 - 1, UNIT),
    ("signed single", (UNIT * 2 - 1).astype(np.float32), UNIT),
    ("bytes", UNIT * 255, UNIT),
    ("labels", np.rint(UNIT * 5), np.rint(UNIT * 5) / 7),
]


@pytest.mark.parametrize(("name", "array", "expected"), FLOATS)
def test_floats_are_recognised_by_their_range(
    tmp_path: Path, name: str, array: NDArray[Any], expected: NDArray[Any]
) -> None:
    np.save(tmp_path / "x.npy", array)
    said: list[str] = []
    found = everything(load(tmp_path / "x.npy", said))
    assert np.abs(found / 255 - expected).max() <= 0.5 / 255 + 1e-6, name
    assert "counts as black" in said[0]
    assert ("and are clipped" in " ".join(said)) == (name == "ringing")


BAD_FLOATS = [
    (np.nan, r"x\[3\]: the value at \[0, 1\] is nan"),
    (np.inf, r"x\[3\]: the value at \[0, 1\] is inf"),
    (1e6, "run from 0 to 1e"),
    (7.5, "run from 0 to 7.5"),
    (-9.0, "run from -9 to"),
]


@pytest.mark.parametrize(("value", "words"), BAD_FLOATS)
def test_floats_that_fit_no_range(tmp_path: Path, value: float, words: str) -> None:
    array = UNIT.copy()
    array[3, 0, 1] = value
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=words.replace("1e", r"1,000,000|1e")):
        load(tmp_path / "x.npy")


def test_too_many_values_outside_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", UNIT - 0.2)
    with pytest.raises(DataError, match="% of its float values lie outside 0 to 1"):
        load(tmp_path / "x.npy")


# ------------------------------------------------------------------ nothing but black


def test_a_set_without_light_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 6, 5), np.uint8))
    np.save(tmp_path / "f.npy", np.full((20, 6, 5), -1e-17))
    (tmp_path / "p").mkdir()
    for place in range(5):
        Image.new("1", (6, 5)).save(tmp_path / f"p/{place}.png")
    for name in ("x.npy", "f.npy", "p"):
        for _ in "now and from the cache":
            with pytest.raises(DataError, match="every image is black"):
                load(tmp_path / name)


def test_black_ink_on_nothing_is_no_black_set(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for place in range(5):
        image = Image.new("LA", (6, 5), (3, 0))
        image.putpixel((2, place), (3, 255))
        image.save(tmp_path / f"p/{place}.png")
    found = everything(load(tmp_path / "p"))
    assert sorted(set(found.flat)) == [3, 255]


# ------------------------------------------------------------------ what a run keeps


def test_a_run_keeps_its_white(vaecli: Vaecli) -> None:
    """A darker part of the set is judged as within it; pictures are read by their own type."""
    array = values("uint16", 3800)
    array[:5] //= 40  # below 127: by itself this part would take another white
    np.save("all.npy", array)
    assert vaecli("train", "--data", "all.npy", *SMALL, "-o", "run").code == 0
    assert json.loads(Path("run/config.json").read_text())["model"]["white_16"] == 4095
    np.save("part.npy", array[:5])
    Path("pngs").mkdir()
    for place, image in enumerate(array[:5]):
        Image.fromarray(image).save(f"pngs/{place}.png")

    def distortions(*data: str) -> dict[int, float]:
        command = ("eval", "-m", "run", *data, "--split", "all", "--data-dir", "cache")
        outcome = vaecli(*command, "--per-image", "-")
        assert outcome.code == 0, outcome.err
        rows = list(csv.DictReader(outcome.out.splitlines()))
        names = [row["path"].split("[")[-1].split(".")[0].rstrip("]") for row in rows]
        return {int(n): float(r["distortion"]) for n, r in zip(names, rows, strict=True)}

    own_data = distortions()
    for data in ("part.npy", "pngs"):
        found = distortions("-d", data)
        assert len(found) == 5
        assert all(abs(found[place] - own_data[place]) < 2 for place in found), (found, own_data)
    Image.fromarray(array[6]).save("deep.png")
    Image.fromarray(np.full((6, 5), 200, np.uint8)).save("flat.png")
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save("bright.png")
    from vaecli.data.picture_for_model import read_picture
    from vaecli.runs.load import load_model

    loaded = load_model("run")
    deep, _ = read_picture(loaded.config, Path("deep.png"), name="deep")
    assert np.array_equal(deep[0], scaled(array[6], 4095))
    flat, _ = read_picture(loaded.config, Path("flat.png"), invert="no", name="flat")
    assert np.unique(flat).tolist() == [200]
    outcome = vaecli("reconstruct", "bright.png", "-m", "run")
    assert outcome.code == ExitCode.DATA
    assert "100.0 % of its 16-bit values lie outside 0 to 4,095" in outcome.err


def test_options_that_decide_white_are_checked(vaecli: Vaecli) -> None:
    np.save("x.npy", values("uint8", 200))
    for value in ("0", "-3", "nan", "bright", "300"):
        outcome = vaecli("train", "--data", "x.npy", "--max-value", value, "--dry-run", *SMALL)
        assert outcome.code == ExitCode.USAGE, value
        assert "--max-value" in outcome.err
    assert vaecli("train", "--data", "digits", "--max-value", "9", *SMALL).code == ExitCode.USAGE


def test_what_has_no_ranges_is_written_as_before() -> None:
    """So that runs of earlier versions are continued, and their weights read."""
    assert set(to_json(ModelConfig(image_shape=(1, 28, 28)))) == {
        "image_shape", "arch", "hidden", "activation", "latent_dim", "likelihood", "border",
        "digits",
    }  # fmt: skip
