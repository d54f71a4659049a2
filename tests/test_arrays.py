"""Arrays of images: layouts, types, splits, and what is refused."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

from conftest import Vaecli
from vaecli.data import npy as npy_header
from vaecli.data.dataset import Dataset, Images, join
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ExitCode
from vaecli.system.size_limits import MAX_ARRAY_HEADER_BYTES

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)


def load(path: Path, **options: object) -> Dataset:
    return prepare.load(path, Options(), Reading(path.parent / "cache", **options))  # type: ignore[arg-type]


def everything(dataset: Dataset) -> Images:
    """All images, in the order of the file."""
    images = join([dataset.test, dataset.train])
    assert images.paths is not None
    places = [int(path.split("[")[1].rstrip("]")) for path in images.paths]
    return images.take(np.argsort(places))


LAYOUTS: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
    "NHW": (GREY, GREY[:, None]),
    "NHWC": (COLOUR.transpose(0, 2, 3, 1).copy(), COLOUR),
    "NCHW": (COLOUR, COLOUR),
    "NHW1": (GREY[..., None], GREY[:, None]),
    "N1HW": (GREY[:, None], GREY[:, None]),
    "fortran": (np.asfortranarray(GREY), GREY[:, None]),
    "floats": ((GREY / 255).astype(np.float32), GREY[:, None]),
    "doubles": (GREY / 255, GREY[:, None]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_types(tmp_path: Path, layout: str) -> None:
    array, expected = LAYOUTS[layout]
    np.save(tmp_path / "x.npy", array)
    dataset = load(tmp_path / "x.npy")
    np.testing.assert_array_equal(everything(dataset).pixels, expected, strict=True)
    assert bool(dataset.account.notes) == (array.dtype != np.uint8)
    assert (dataset.name, len(dataset.test) > 0) == ("x", True)


def test_npz_with_labels_and_splits(tmp_path: Path) -> None:
    labels = np.arange(40) % 3
    np.savez(tmp_path / "one.npz", images=GREY, labels=labels)
    dataset = load(tmp_path / "one.npz")
    for part in (dataset.train, dataset.test):
        assert part.labels is not None
        assert part.paths is not None
        assert part.labels.tolist() == [int(path[7:-1]) % 3 for path in part.paths]
    np.savez_compressed(
        tmp_path / "keras.npz", x_train=GREY, y_train=labels, x_test=GREY[:7], y_test=labels[:7]
    )
    dataset = load(tmp_path / "keras.npz")
    assert (len(dataset.train), len(dataset.test)) == (40, 7)
    test = everything(Dataset("", dataset.test, dataset.test[:0])).pixels
    np.testing.assert_array_equal(test, GREY[:7, None], strict=True)
    np.savez(tmp_path / "med.npz", train_images=GREY, val_images=GREY[:3], test_images=GREY[:5])
    assert len(load(tmp_path / "med.npz").test) == 5
    np.savez(tmp_path / "any.npz", pictures=GREY, other=np.arange(3))
    assert len(load(tmp_path / "any.npz").train) > 30


def npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


REFUSED = {
    "objects.npy": (npy(np.array([{"a": 1}] * 3, dtype=object)), "objects"),
    "objects.npz": (npz(images=npy(np.array([{"a": 1}], dtype=object))), "objects"),
    "cut.npy": (npy(GREY)[:-1], "damaged"),
    "long.npy": (npy(GREY) + b"x", "damaged"),
    "claims.npy": (npy(GREY).replace(b"(40, 6, 5)", b"(4000,6,5)"), "damaged"),
    "negative.npy": (npy(GREY).replace(b"(40, 6, 5)", b"(40,-6,-5)"), ""),
    "text.npy": (b"no array", ""),
    "empty.npy": (b"", ""),
    "flat.npy": (npy(GREY.reshape(40, -1)), "shape"),
    "channels.npy": (npy(GREY.reshape(5, 8, 6, 5)), "shape"),
    "none.npy": (npy(GREY[:0]), ""),
    "unseen.npy": (npy(np.stack([GREY, GREY, GREY, GREY * 0], 3)), "every pixel is transparent"),
    "nan-alpha.npy": (npy(np.full((4, 5, 5, 4), [0, 0, 0, np.nan])), "nan-alpha[0]"),
    "alpha-first.npy": (npy(RNG.random((9, 4, 6, 5))), "shape"),
    "int.npy": (npy(GREY.astype(np.int64) - 300), "-300 to"),
    "wide.npy": (npy(GREY.astype(np.float32) * 9), "0 to 255"),
    "nan.npy": (npy(np.full((4, 5, 5), np.nan)), "nan[0]"),
    "text.npz": (b"PK no zip", ""),
    "nothing.npz": (npz(), "nothing"),
    "two.npz": (npz(a=npy(GREY), b=npy(GREY)), "a, b"),
    "cut.npz": (npz(images=npy(GREY)[:-1]), "damaged"),
    "labels.npz": (npz(images=npy(GREY), labels=npy(np.arange(3))), "labels"),
    "mixed.npz": (npz(x_train=npy(GREY), x_test=npy(COLOUR)), "different shapes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_exit_3(vaecli: Vaecli, name: str) -> None:
    content, words = REFUSED[name]
    Path(name).write_bytes(content)
    outcome = vaecli("train", "--data", name, "--data-dir", "cache", "--dry-run")
    assert outcome.code == ExitCode.DATA, outcome.err
    assert name in outcome.err
    assert words in outcome.err


HEADER = b"{'descr': %b, 'fortran_order': False, 'shape': %b, }"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"(" * 4000, "damaged"),
        (b"-" * 4000 + b"1", "damaged"),
        (b"{[]: 1}", "damaged"),
        (b'"' * 3, "damaged"),
        (b"{'descr': '|u1'}", "damaged"),
        (HEADER % (b"()", b"(1,)"), "damaged"),
        (HEADER % (b"7", b"(1,)"), "damaged"),
        (HEADER % (b"[('a',)]", b"(1,)"), "damaged"),
        (HEADER % (b"'U99999999999'", b"(1,)"), "damaged"),
        (HEADER % (b"('<f4', (2,))", b"(1,)"), "plain number type"),
        (HEADER % (b"'f4,f4'", b"(1,)"), "plain number type"),
        (HEADER % (b"'|u1'", b"(-1, -1)"), "impossible size"),
        (HEADER % (b"'|u1'", b"(0x" + b"9" * 3900 + b",)"), "impossible size"),
        (HEADER % (b"'|O'", b"(1,)"), "objects"),
    ],
)
def test_a_hostile_header_is_refused(header: bytes, words: str) -> None:
    start = npy_format.magic(1, 0) + struct.pack("<H", len(header))
    with pytest.raises(npy_header.NotNumbersError, match=words):
        npy_header.read_header(io.BytesIO(start + header))


def test_a_header_that_claims_2_gib_is_not_read() -> None:
    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 <= size <= MAX_ARRAY_HEADER_BYTES
            return super().read(size)

    data = npy_format.magic(2, 0) + struct.pack("<I", 2**31)
    with pytest.raises(npy_header.NotNumbersError, match="2,147,483,648 bytes, more than 4,096"):
        npy_header.read_header(File(data))


def test_a_header_of_python_2_is_read_without_a_warning(tmp_path: Path) -> None:
    header = HEADER % (b"'|u1'", b"(40L, 6L, 5L)")
    start = npy_format.magic(1, 0) + struct.pack("<H", len(header))
    (tmp_path / "x.npy").write_bytes(start + header + GREY.tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(everything(load(tmp_path / "x.npy"))) == 40


def test_an_npz_that_unpacks_to_more_than_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.npz").write_bytes(npz(images=npy(np.zeros((2000, 64, 64), np.uint8))))
    with pytest.raises(DataError, match="allowed in memory"):
        load(tmp_path / "bomb.npz", memory=1 << 20)


def test_an_array_trains_and_is_found_again(vaecli: Vaecli) -> None:
    np.save("faces.npy", COLOUR)
    small = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "-q", "--data-dir", "cache")
    assert vaecli("train", "--data", "faces.npy", *small, "-o", "run").code == 0
    assert json.loads(Path("run/config.json").read_text())["data"]["kind"] == "array"
    assert vaecli("eval", "-m", "run", "--data-dir", "cache").code == 0
    whole = vaecli("eval", "-m", "run", "-d", "faces.npy", "--data-dir", "cache", "--split", "all")
    assert "n_images\t40" in whole.out
    np.save("others.npy", COLOUR[:9])
    other = vaecli("eval", "-m", "run", "-d", "others.npy", "--data-dir", "cache")
    assert "n_images\t9" in other.out
    np.save("grey.npy", GREY)
    assert vaecli("eval", "-m", "run", "-d", "grey.npy", "--data-dir", "cache").code == 3
    np.save("faces.npy", COLOUR[:-1])
    changed = vaecli("train", "--resume", "run", "--data-dir", "cache")
    assert changed.code == ExitCode.MODEL


# ------------------------------------------------------------------ alpha

CLEAR = RNG.integers(0, 256, (40, 6, 5, 1), dtype=np.uint8)
"""Alpha: 0 is transparent."""
RGBA = np.concatenate([COLOUR.transpose(0, 2, 3, 1), CLEAR], axis=3)
SIXTEEN = RGBA.astype(np.uint16) * 257
RGBA_TYPES: dict[str, NDArray[Any]] = {
    "uint8": RGBA,
    "uint16": SIXTEEN,
    "int64": RGBA.astype(np.int64),
    "float": (RGBA / 255).astype(np.float32),
    "float to 255": RGBA.astype(np.float64),
    "-1 to 1": RGBA / 127.5 - 1,
    "-1 to 1, alpha to 1": np.concatenate([RGBA[..., :3] / 127.5 - 1, CLEAR / 255], axis=3),
    "alpha to 1": np.concatenate([RGBA[..., :3], CLEAR // 128], axis=3),
}


def on_white(rgba: NDArray[np.uint8], ground: int = 255) -> NDArray[np.uint8]:
    """Composed by the definition, in exact numbers: (N, C, H, W)."""
    colours, alpha = rgba[..., :-1].astype(float), rgba[..., -1:].astype(float) / 255
    composed = np.rint(colours * alpha + ground * (1 - alpha)).astype(np.uint8)
    return composed.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("kind", RGBA_TYPES)
def test_alpha_is_put_on_white(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "x.npy", RGBA_TYPES[kind])
    dataset = load(tmp_path / "x.npy")
    alpha = CLEAR // 128 * 255 if kind == "alpha to 1" else CLEAR
    expected = on_white(np.concatenate([RGBA[..., :3], alpha], axis=3))
    np.testing.assert_array_equal(everything(dataset).pixels, expected, strict=True)
    assert "the fourth channel of x is alpha" in dataset.account.notes


def test_an_array_with_alpha_gives_the_pixels_of_picture_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RGBA)
    (tmp_path / "p").mkdir()
    for place, pixels in enumerate(RGBA):
        Image.fromarray(pixels, "RGBA").save(tmp_path / f"p/{place}.png")
    files = load(tmp_path / "p")
    by_name = dict[str, NDArray[np.uint8]]()
    for images in (files.train, files.test):
        assert images.paths is not None
        by_name |= zip(images.paths, images.pixels[:], strict=True)
    for place, pixels in enumerate(everything(load(tmp_path / "x.npy")).pixels[:]):
        np.testing.assert_array_equal(pixels, by_name[f"{place}.png"], strict=True)


def test_grey_with_alpha_is_one_channel(tmp_path: Path) -> None:
    grey = np.concatenate([np.repeat(GREY[..., None], 3, axis=3), CLEAR], axis=3)
    np.savez(tmp_path / "x.npz", x_train=grey, x_test=np.repeat(GREY[:7, ..., None], 3, axis=3))
    dataset = load(tmp_path / "x.npz")
    assert dataset.image_shape == (1, 6, 5)
    train = everything(Dataset("", dataset.train, dataset.train[:0])).pixels[:]
    np.testing.assert_array_equal(train, on_white(grey[..., 2:]), strict=True)
    test = everything(Dataset("", dataset.test, dataset.test[:0])).pixels[:]
    np.testing.assert_array_equal(test, GREY[:7, None], strict=True)


def test_a_dark_picture_on_a_transparent_ground_keeps_its_white(tmp_path: Path) -> None:
    dark = RGBA.copy()
    dark[..., :3] //= 16
    np.save(tmp_path / "x.npy", dark)
    (found,) = load(tmp_path / "x.npy").account.values
    assert (found.highest, found.white) == (255, 255)
    dark[..., 3] = 255
    np.save(tmp_path / "x.npy", dark)
    (found,) = load(tmp_path / "x.npy").account.values
    assert (found.highest, found.white) == (15, 15)


def test_a_grey_model_puts_alpha_on_its_own_ground(vaecli: Vaecli, trained: Path) -> None:
    """Of digits: light ink on black, so that transparent is black."""
    rgba = np.zeros((9, 28, 28, 4), np.uint8)
    rgba[:, 10:18, 12:16] = 255
    np.save("alpha.npy", rgba)
    np.save("black.npy", rgba[..., 0])
    scores = [
        json.loads(vaecli("eval", "-m", trained, "-d", name, "--json", "--data-dir", "c").out)
        for name in ("alpha.npy", "black.npy")
    ]
    assert scores[0]["loss"] == scores[1]["loss"]
