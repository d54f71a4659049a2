"""Splits, classes and what is left out, from a folder or array file to the numbers of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Vaecli
from vaecli.config import DataConfig
from vaecli.data import splits_and_classes
from vaecli.data.dataset import Dataset
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ExitCode
from vaecli.system import threads
from vaecli.system.typed_json import from_json, to_json

SMALL = ("--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--data-dir", "cache")


def pictures(folder: Path, count: int, level: int) -> None:
    """Flat grey pictures of 8 x 8 with the levels `level`, `level` + 1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("L", (8, 8), level + index).save(folder / f"{level}-{index}.png")


def levels(images: Any) -> list[int]:
    return sorted(images.pixels[:][:, 0, 0, 0].tolist())


def load(path: Path, **options: object) -> Dataset:
    return prepare.load(path, Options(), Reading(path.parent / "cache"), **options)  # type: ignore[arg-type]


def three_splits(root: Path) -> None:
    pictures(root / "Training/cat", 6, 10)
    pictures(root / "Training/dog", 6, 30)
    pictures(root / "Valid/cat", 2, 60)
    pictures(root / "Valid/dog", 1, 70)
    pictures(root / "TEST/cat", 4, 90)


def table(outcome: Any) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return dict(json.loads(outcome.out)["data"])


def test_three_splits_by_their_pixels(tmp_path: Path) -> None:
    three_splits(tmp_path / "w/d")
    dataset = load(tmp_path / "w")
    assert dataset.validation is not None
    assert levels(dataset.train) == [*range(10, 16), *range(30, 36)]
    assert levels(dataset.validation) == [60, 61, 70]
    assert levels(dataset.test) == [90, 91, 92, 93]
    for images in dataset.splits.values():
        assert images.labels is not None
        assert images.paths is not None
        names = [images.class_name(label) for label in images.labels.tolist()]
        assert names == [path.split("/")[2] for path in images.paths]


def test_the_validation_split_counts_in_the_fingerprint(tmp_path: Path) -> None:
    three_splits(tmp_path / "d")
    before = load(tmp_path / "d").fingerprint()
    Image.new("L", (8, 8), 200).save(tmp_path / "d/Valid/dog/70-0.png")
    assert load(tmp_path / "d").fingerprint() != before


def test_arrays_in_splits_by_their_pixels(tmp_path: Path) -> None:
    flat = np.arange(240, 252, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", X_train=flat[:6], x_valid=flat[6:8], Test_x=flat[8:])
    dataset = load(tmp_path / "a.npz")
    assert dataset.validation is not None
    assert (levels(dataset.train), levels(dataset.validation), levels(dataset.test)) == (
        [240, 241, 242, 243, 244, 245],
        [246, 247],
        [248, 249, 250, 251],
    )


def test_patience_watches_the_validation_split(vaecli: Vaecli) -> None:
    three_splits(Path("d"))
    command = ("train", "--data", "d", *SMALL, "--epochs", "2", "--patience", "5", "-q")
    assert vaecli(*command, "-o", "run").code == 0
    config = json.loads(Path("run/config.json").read_text())["data"]
    assert (config["n_train"], config["n_validation"], config["n_test"]) == (12, 3, 4)
    rows = csv.DictReader(Path("run/metrics.csv").read_text().splitlines())
    best = min(float(row["held_out_loss"]) for row in rows)
    judged = {}
    for split in ("validation", "test", "train", "all"):
        outcome = vaecli("eval", "-m", "run", "--split", split, "--json", "--data-dir", "cache")
        judged[split] = json.loads(outcome.out)
    assert {split: value["n_images"] for split, value in judged.items()} == {
        "validation": 3, "test": 4, "train": 12, "all": 19,
    }  # fmt: skip
    assert judged["validation"]["loss"] == pytest.approx(best, rel=1e-5)


def test_the_split_that_patience_made_is_judged(vaecli: Vaecli) -> None:
    pictures(Path("d"), 40, 10)
    command = ("train", "--data", "d", *SMALL, "--epochs", "1", "-q")
    assert vaecli(*command, "--patience", "1", "-o", "run").code == 0
    row = next(csv.DictReader(Path("run/metrics.csv").read_text().splitlines()))
    outcome = vaecli("eval", "-m", "run", "--split", "validation", "--json", "--data-dir", "cache")
    assert json.loads(outcome.out)["loss"] == pytest.approx(float(row["held_out_loss"]), rel=1e-5)


def test_no_validation_split_is_exit_3(vaecli: Vaecli) -> None:
    pictures(Path("d"), 10, 10)
    assert vaecli("train", "--data", "d", *SMALL, "--epochs", "1", "-q", "-o", "run").code == 0
    outcome = vaecli("eval", "-m", "run", "--split", "validation", "--data-dir", "cache")
    assert outcome.code == ExitCode.DATA
    assert "no validation split" in outcome.err


def test_no_training_images_is_exit_3(vaecli: Vaecli) -> None:
    pictures(Path("d/test"), 4, 10)
    pictures(Path("d/val"), 4, 30)
    outcome = vaecli("train", "--data", "d", *SMALL, "--dry-run")
    assert outcome.code == ExitCode.DATA
    assert "no images to train on" in outcome.err


def test_pictures_on_both_sides_are_counted(tmp_path: Path) -> None:
    pictures(tmp_path / "d/train", 5, 100)
    pictures(tmp_path / "d/test", 4, 103)  # 103 and 104 are there twice
    pictures(tmp_path / "d/val", 3, 104)  # 104 is there twice
    for _ in range(2):  # from the files, and from the cache
        notes = load(tmp_path / "d").account.notes
        assert notes == (
            "2 of the 4 test images are training images too",
            "1 of the 3 validation images are training images too",
        )


def test_the_table_of_a_dry_run(vaecli: Vaecli) -> None:
    three_splits(Path("d"))
    pictures(Path("d/extra"), 2, 100)
    for name in ("a.RAW", "b.raw", "notes.txt", "Valid/._60.png"):
        (Path("d") / name).write_bytes(b"x")
    command = ("train", "--data", "d", *SMALL, "--epochs", "1")
    data = table(vaecli(*command, "--dry-run", "--json"))
    assert (data["n_train"], data["n_validation"], data["n_test"]) == (12, 3, 4)
    assert data["sources"] == {"train": "Training/", "validation": "Valid/", "test": "TEST/"}
    assert data["classes"] == ["cat", "dog"]
    assert data["image_shape"] == [1, 8, 8]
    assert {item["reason"]: item["count"] for item in data["left_out"]} == {
        ".raw files: not a supported format": 2,
        ".txt file: not a supported format": 1,
        "hidden image file: its name begins with a dot": 1,
        f"images {splits_and_classes.OUTSIDE_SPLITS}": 2,
    }
    rows = vaecli(*command, "--dry-run").out
    assert "12 training and 4 test images of 1x8x8" in rows
    assert "2 .raw files: not a supported format" in rows
    trained = vaecli(*command, "-o", "run")
    assert "2 .raw files: not a supported format" in trained.err
    assert "3: Valid/; not trained on" in trained.err


def test_what_is_left_out_is_said_by_eval_and_reconstruct(vaecli: Vaecli, trained: Path) -> None:
    pictures(Path("d"), 3, 10)
    for index in range(40):
        Path(f"d/{index}.RAW").write_bytes(b"x")
    words = "40 .raw files: not a supported format"
    judged = vaecli("eval", "-m", trained, "-d", "d", "--data-dir", "cache")
    assert words in judged.err
    assert "n_images\t3" in judged.out
    assert words in vaecli("reconstruct", "d", "-m", trained, "-o", "out").err
    for path in Path("d").glob("*.png"):
        path.unlink()
    for command in (("eval", "-d", "d", "--data-dir", "cache"), ("reconstruct", "d", "-o", "o2")):
        refused = vaecli(*command, "-m", trained)
        assert refused.code == ExitCode.DATA
        assert words in refused.err


# ------------------------------------------------------------------ classes


def classes_of(path: str) -> dict[str, set[tuple[str, str]]]:
    """The label and class of each image, by the folder it lies in."""
    found: dict[str, set[tuple[str, str]]] = {}
    for row in csv.DictReader(Path(path).read_text().splitlines()):
        found.setdefault(row["path"].split("/")[-2], set()).add((row["label"], row["class"]))
    return found


def test_classes_are_matched_by_name(vaecli: Vaecli) -> None:
    for place, name in enumerate(("airplane", "frog", "truck")):
        pictures(Path("d") / name, 10, 20 * place + 10)
    assert vaecli("train", "--data", "d", *SMALL, "--epochs", "1", "-q", "-o", "run").code == 0
    assert json.loads(Path("run/config.json").read_text())["data"]["classes"] == [
        "airplane", "frog", "truck",
    ]  # fmt: skip
    pictures(Path("n/frog"), 4, 100)
    pictures(Path("n/truck"), 4, 110)
    pictures(Path("n/zebra"), 4, 120)
    pictures(Path("one/frog"), 4, 100)
    command = ("eval", "-m", "run", "-q", "--data-dir", "cache")
    assert vaecli(*command, "--split", "all", "--per-image", "own.csv").code == 0
    header = Path("own.csv").read_text().splitlines()[0]
    assert header == "index,path,label,class,loss,distortion,rate"
    expected = {"airplane": {("0", "airplane")}, "frog": {("1", "frog")}, "truck": {("2", "truck")}}
    assert classes_of("own.csv") == expected
    assert vaecli(*command, "-d", "n", "--per-image", "n.csv").code == 0
    assert classes_of("n.csv") == {
        "frog": {("1", "frog")}, "truck": {("2", "truck")}, "zebra": {("", "zebra")},
    }  # fmt: skip
    assert vaecli(*command, "-d", "one", "--per-image", "one.csv").code == 0
    assert classes_of("one.csv") == {"frog": {("1", "frog")}}


def test_a_run_without_classes_is_still_read() -> None:
    config = DataConfig(name="d", fingerprint="0", n_train=1, n_test=1)
    older = to_json(config)
    del older["classes"], older["n_validation"]
    assert from_json(DataConfig, older, where="data") == config


LABELS: dict[str, tuple[Any, list[str] | None]] = {
    "numbers": (np.arange(40) % 3, [str(k % 3) for k in range(40)]),
    "column": ((np.arange(40) % 3)[:, None], [str(k % 3) for k in range(40)]),
    "whole floats": (np.arange(40) % 3 * 1.0, [str(k % 3) for k in range(40)]),
    "texts": (np.array([f"c{k % 3}" for k in range(40)]), [f"c{k % 3}" for k in range(40)]),
    "bytes": (np.array([b"cat", b"dog"] * 20), ["cat", "dog"] * 20),
    "one-hot": (np.eye(3, dtype=np.uint8)[np.arange(40) % 3], [str(k % 3) for k in range(40)]),
    "fractions": (np.arange(40) / 3, None),
    "several": (np.ones((40, 3)), None),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_arrays(tmp_path: Path, kind: str) -> None:
    labels, expected = LABELS[kind]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    dataset = load(tmp_path / "a.npz")
    said = any("labels" in note for note in dataset.account.notes)
    assert said == (expected is None)
    for images in (dataset.train, dataset.test):
        if expected is None:
            assert images.labels is None
            continue
        assert images.labels is not None
        assert images.paths is not None
        for label, path in zip(images.labels.tolist(), images.paths, strict=True):
            assert images.class_name(label) == expected[int(path[7:-1])]


# ------------------------------------------------------------------ members and shapes


def test_members_that_are_no_images_are_left_out_unread(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (40, 8, 8), dtype=np.uint8)
    objects = np.array({"title": 1}, dtype=object)
    np.savez(tmp_path / "d.npz", metadata=objects, imgs=pixels * 255, latents=np.zeros((40, 6)))
    dataset = load(tmp_path / "d.npz")
    assert len(dataset.train) + len(dataset.test) == 40
    left_out = " ".join(dataset.account.left_out)
    assert "metadata" in left_out
    assert "latents" in left_out
    np.savez(tmp_path / "o.npz", x_train=objects, x_test=pixels)
    with pytest.raises(DataError, match=r"x_train.*objects"):
        load(tmp_path / "o.npz")


def test_rows_become_square_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "rows.npy", pixels.reshape(40, 64))
    np.save(tmp_path / "images.npy", pixels)
    rows, images = load(tmp_path / "rows.npy"), load(tmp_path / "images.npy")
    assert rows.image_shape == (1, 8, 8)
    # the names differ, and with them which images are held out
    both = [np.concatenate([d.test.pixels[:], d.train.pixels[:]]) for d in (rows, images)]
    places = [
        np.argsort([int(p.split("[")[1][:-1]) for p in (*d.test.paths, *d.train.paths)])  # type: ignore[misc]
        for d in (rows, images)
    ]
    np.testing.assert_array_equal(both[0][places[0]], both[1][places[1]], strict=True)


@pytest.mark.parametrize("shape", [(48, 64, 3), (3, 48, 64), (48, 64, 1), (64, 64), (60, 600)])
def test_shapes_that_say_too_little_are_exit_3(vaecli: Vaecli, shape: tuple[int, ...]) -> None:
    np.save("a.npy", np.zeros(shape, np.uint8))
    outcome = vaecli("train", "--data", "a.npy", *SMALL, "--dry-run")
    assert outcome.code == ExitCode.DATA
    assert str(shape) in outcome.err


def test_pictures_on_both_sides_are_counted_in_arrays_and_beside_bad_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pixels[:8], x_test=pixels[6:], x_val=pixels[7:9])
    counted = (
        "2 of the 6 test images are training images too",
        "1 of the 2 validation images are training images too",
    )
    assert load(tmp_path / "a.npz").account.notes == counted
    for split, chosen in (("train", range(8)), ("test", range(6, 12)), ("val", range(7, 9))):
        (tmp_path / "d" / split).mkdir(parents=True)
        (tmp_path / "d" / split / "0.png").write_bytes(b"no picture")
        for place in chosen:
            Image.fromarray(pixels[place]).save(tmp_path / f"d/{split}/{place}.png")
    options = Options(skip_bad=True)
    (tmp_path / "d/train/0.png").unlink()
    (tmp_path / "d/val/0.png").unlink()
    Image.fromarray(pixels[0]).save(tmp_path / "d/train/0.png")
    dataset = prepare.load(tmp_path / "d", options, Reading(tmp_path / "cache"))
    assert dataset.account.notes == counted


def test_a_set_that_gains_colour_late_is_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass begins again when colour is found; what was counted before is void."""
    monkeypatch.setattr(threads, "cores", lambda: 1)  # batches come out before the last one
    pictures(tmp_path / "d/train", 200, 0)
    pictures(tmp_path / "d/test", 3, 198)  # 198 and 199 are there twice
    pictures(tmp_path / "d/val", 1, 98)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "d/val/z.png")
    dataset = load(tmp_path / "d")
    assert dataset.image_shape == (3, 8, 8)
    assert dataset.account.notes == (
        "2 of the 3 test images are training images too",
        "1 of the 2 validation images are training images too",
    )


def test_class_names_that_are_too_long_to_keep_are_said(vaecli: Vaecli) -> None:
    names = np.array([f"{place:04d}" + "n" * 200 for place in range(2600)])
    pixels = np.random.default_rng(0).integers(0, 256, (2600, 2, 2), dtype=np.uint8)
    np.savez("a.npz", images=pixels, labels=names)
    plan = vaecli("train", "--data", "a.npz", *SMALL, "--epochs", "1", "--dry-run", "--json")
    data = json.loads(plan.out)["data"]
    assert len(data["classes"]) == 2600
    (note,) = data["notes"]
    assert note.startswith("the names of its 2,600 classes take more than 524,288 bytes")
    np.savez("b.npz", images=pixels[:2000], labels=names[:2000])
    assert not load(Path("b.npz")).account.notes
