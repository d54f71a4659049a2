"""Sees to it that the user's own images lie on both sides: some to train on, some to test."""

from __future__ import annotations

from dataclasses import replace

from vaecli.data.dataset import Dataset, Images
from vaecli.data.own import folder
from vaecli.system.callbacks import Report


def filled(dataset: Dataset, report: Report) -> Dataset:
    """If one split is empty, move one file into it: the one whose hash is nearest the border."""
    train, test = dataset.train, dataset.test
    if len(train) + len(test) == 1:
        only = train if len(train) else test
        report(f"{dataset.name} has only one image, used for training and testing")
        return replace(dataset, train=only, test=only)
    if not len(test):
        count = _of_one_file(train, 0)
        report(
            f"no image of {dataset.name} was held out, so {_path(train[:1])}"
            " was moved to the test split"
        )
        return replace(dataset, train=train[count:], test=train[:count])
    if not len(train):
        count = _of_one_file(test, -1)
        report(
            f"all images of {dataset.name} were held out, so {_path(test[-1:])}"
            " was moved to the training split"
        )
        return replace(dataset, train=test[-count:], test=test[:-count])
    return dataset


def _of_one_file(images: Images, place: int) -> int:
    """Number of images in the file of the image at `place`."""
    assert images.paths is not None
    file = folder.file_of(images.paths[place])
    return sum(folder.file_of(path) == file for path in images.paths)


def _path(images: Images) -> str:
    assert images.paths is not None
    return folder.file_of(images.paths[0])
