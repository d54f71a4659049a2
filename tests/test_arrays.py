"""Arrays of images: layouts, types, splits, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import Vaecli
from vaecli.data.dataset import Dataset, Images, join
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.errors import DataError, ExitCode

pytestmark = pytest.mark.usefixtures("quick_figures")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)


def load(path: Path, **options: object) -> Dataset:
    return prepare.load(path, Options(), data_dir=path.parent / "cache", **options)  # type: ignore[arg-type]


def everything(dataset: Dataset) -> Images:
    """All images, in the order of the file."""
    images = join([dataset.test, dataset.train])
    assert images.paths is not None
    places = [int(path.split("[")[1].rstrip("]")) for path in images.paths]
    return Images(images.pixels[torch.tensor(places).argsort()], images.labels)


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
    assert torch.equal(everything(dataset).pixels[:], torch.from_numpy(expected))
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
    assert torch.equal(everything(Dataset("", dataset.test, dataset.test[:0])).pixels[:][:, 0],
                       torch.from_numpy(GREY[:7]))  # fmt: skip
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


def test_an_npz_that_unpacks_to_more_than_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.npz").write_bytes(npz(images=npy(np.zeros((2000, 64, 64), np.uint8))))
    with pytest.raises(DataError, match="held in memory"):
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
