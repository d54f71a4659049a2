"""What names of folders and arrays mean, against tables written by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from vaecli.data import splits_and_classes
from vaecli.data.own import array_names
from vaecli.data.own.array_names import ArrayPart
from vaecli.data.splits_and_classes import UNKNOWN, Place

# paths of images, and the split and class of each one that counts
FOLDERS: dict[str, dict[str, tuple[str | None, str | None] | None]] = {
    "train and valid": {
        "train/cat/1": ("train", "cat"),
        "train/dog/1": ("train", "dog"),
        "valid/cat/2": ("test", "cat"),
    },
    "any case": {"Training/1": ("train", None), "TESTING/2": ("test", None)},
    "plural": {"train/1": ("train", None), "Tests/2": ("test", None)},
    "dev": {"train/1": ("train", None), "dev/2": ("test", None)},
    "eval": {"TRAIN/1": ("train", None), "Eval/2": ("test", None)},
    "three": {
        "Training/1": ("train", None),
        "Validation/2": ("validation", None),
        "TEST/3": ("test", None),
    },
    "others beside": {
        "train/1": ("train", None),
        "val/2": ("test", None),
        "extra/3": None,
        "cover": None,
    },
    "one wrapper": {"w/train/1": ("train", None), "w/test/2": ("test", None)},
    "two wrappers": {"w/v/a/1": (None, "a"), "w/v/b/2": (None, "b")},
    "train alone": {"train/a/1": (None, "a"), "train/b/2": (None, "b")},
    "a folder inside each split": {
        "seg_train/seg_train/a/1": ("train", "a"),
        "seg_train/seg_train/b/1": ("train", "b"),
        "seg_test/seg_test/a/2": ("test", "a"),
        "seg_test/seg_test/b/2": ("test", "b"),
    },
    "images inside each split": {
        "train/images/1": ("train", None),
        "valid/images/2": ("test", None),
    },
    "one class in a split": {
        "train/a/1": ("train", "a"),
        "train/b/1": ("train", "b"),
        "test/a/2": ("test", "a"),
    },
    "splits inside classes": {
        "a/train/1": ("train", "a"),
        "a/test/2": ("test", "a"),
        "b/train/3": ("train", "b"),
        "b/test/4": ("test", "b"),
    },
    "numbers in the names": {"train2017/1": ("train", None), "val2017/2": ("test", None)},
    "more words": {"train_images/1": ("train", None), "test_images/2": ("test", None)},
    "words that differ": {"train_bus/1": (None, "train_bus"), "test_tube/2": (None, "test_tube")},
    "unknown names": {"part1/1": (None, "part1"), "part2/2": (None, "part2")},
    "a vehicle": {"train/1": (None, "train"), "bus/2": (None, "bus")},
    "a test without classes": {
        "train/a/1": ("train", "a"),
        "train/b/1": ("train", "b"),
        "test/2": ("test", None),
    },
    "one outside": {"a/1": (None, None), "b/2": (None, None), "3": (None, None)},
    "one class": {"a/1": (None, None), "a/2": (None, None)},
    "flat": {"1": (None, None), "2": (None, None)},
    "no training images": {"test/1": ("test", None), "val/2": ("validation", None)},
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str) -> None:
    expected = FOLDERS[name]
    found = splits_and_classes.understand(sorted(expected))
    assert found.places == {path: Place(*place) for path, place in expected.items() if place}  # type: ignore[arg-type]
    outside = sum(place is None for place in expected.values())
    assert sum(found.account.left_out.values()) == outside


def test_what_was_decided_is_said() -> None:
    wrapped = splits_and_classes.understand(["w/v/Train/1", "w/v/valid/2"]).account
    assert wrapped.sources == {"train": "w/v/Train/", "test": "w/v/valid/"}
    assert "w/v/" in wrapped.notes[0]
    vehicle = splits_and_classes.understand(["bus/1", "train/2"]).account
    assert "train/ is read as a class" in vehicle.notes[0]
    loose = splits_and_classes.understand(["1", "a/2", "b/3"]).account
    assert "1 image in no class folder" in loose.notes[0]
    assert splits_and_classes.understand(["a/1", "b/2"]).account == splits_and_classes.Account()


def test_a_class_of_the_model_is_no_wrapper() -> None:
    paths = ["frog/1", "frog/2"]
    known = splits_and_classes.understand(paths, known_classes=["cat", "frog"])
    assert [place.label for place in known.places.values()] == ["frog", "frog"]
    test_alone = splits_and_classes.understand(["n/train/frog/1", "n/test/frog/2"], ["frog"])
    assert [place.label for place in test_alone.places.values()] == ["frog", "frog"]


# names of arrays, images among them, and (images, labels, split) of each that is taken
ARRAYS: list[tuple[str, str, list[tuple[str, str | None, str | None]]]] = [
    ("images labels", "images", [("images", "labels", None)]),
    ("X y", "X", [("X", "y", None)]),
    ("x_train y_train x_valid", "x_train x_valid",
     [("x_train", "y_train", "train"), ("x_valid", None, "test")]),
    ("x_train x_valid x_test", "x_train x_valid x_test",
     [("x_train", None, "train"), ("x_valid", None, "validation"), ("x_test", None, "test")]),
    ("train_x TEST_X test_labels trainY", "train_x TEST_X",
     [("train_x", "trainY", "train"), ("TEST_X", "test_labels", "test")]),
    ("Xtrain Xtest", "Xtrain Xtest", [("Xtrain", None, "train"), ("Xtest", None, "test")]),
    ("train_images validation_images", "train_images validation_images",
     [("train_images", None, "train"), ("validation_images", None, "test")]),
    ("train test", "train test", [("train", None, "train"), ("test", None, "test")]),
    ("X y X_val", "X X_val", [("X", "y", "train"), ("X_val", None, "test")]),
    ("X_test y_test", "X_test", [("X_test", "y_test", None)]),
    ("imgs metadata latents_values", "imgs", [("imgs", None, None)]),
    ("pictures_of_cats other", "pictures_of_cats", [("pictures_of_cats", None, None)]),
    ("a b", "a b", []),
]  # fmt: skip


@pytest.mark.parametrize(("names", "images", "parts"), ARRAYS)
def test_arrays(names: str, images: str, parts: list[tuple[str, str | None, str | None]]) -> None:
    found = array_names.understand(names.split(), images.split())
    assert Counter(found) == Counter(ArrayPart(*part) for part in parts)  # type: ignore[arg-type]


def test_two_arrays_for_one_split_are_refused() -> None:
    with pytest.raises(ValueError, match="x_train and train_images"):
        array_names.understand(["x_train", "train_images"], ["x_train", "train_images"])


def test_numbers_of_classes() -> None:
    assert splits_and_classes.number_classes(["cat", "dog"]) == {"cat": 0, "dog": 1}
    assert splits_and_classes.number_classes(["10", "2"]) == {"10": 10, "2": 2}
    assert splits_and_classes.number_classes(["07", "7"]) == {"07": 0, "7": 1}
    matched = splits_and_classes.number_classes(["ape", "dog"], known=["cat", "dog"])
    assert matched == {"cat": 0, "dog": 1, "ape": UNKNOWN + 1}
    assert [splits_and_classes.is_known(label) for label in matched.values()] == [True, True, False]
    assert not splits_and_classes.is_known(UNKNOWN)
