"""The images to put through a trained model: its own data set, or another at its shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vaecli.config import Binarize
from vaecli.data import catalogue
from vaecli.data.dataset import Dataset, Images, join, static_binarized
from vaecli.data.origin import Options
from vaecli.data.reading import Reading
from vaecli.data.splits_and_classes import Split
from vaecli.errors import DataError, UsageError
from vaecli.runs.load import LoadedModel
from vaecli.training import provenance
from vaecli.training.configuration import contradictions


@dataclass(frozen=True)
class Choice:
    """Which images.

    Attributes:
        data: name of a set or path of images; None for those the model was trained on.
        split: test, train, validation or all; None: test of the model's own data, all of others.
        limit: only the first so many.
        skip_bad: leave unreadable images out.
    """

    data: str | None = None
    split: Split | Literal["all"] | None = None
    limit: int | None = None
    skip_bad: bool = False


def load(
    loaded: LoadedModel, choice: Choice, reading: Reading, binarize: Binarize = "none"
) -> tuple[Images, str]:
    """Images of the model's shape, and what to call them.

    Only static binarization is done here: it belongs to a place in the whole set.

    Raises:
        DataError: they cannot be read, are of another shape, or there is no such split.
        UsageError: nothing says which images.
    """
    dataset, own = _dataset(loaded, choice, reading)
    shape = loaded.config.image_shape
    if dataset.image_shape != shape:
        raise DataError(
            f"--data {dataset.name}: its images are {_by(dataset.image_shape)},"
            f" the model's {_by(shape)}",
            "Choose data of the model's shape.",
        )
    if binarize == "static":
        dataset = static_binarized(dataset)
    split = choice.split or ("test" if own else "all")
    images = _part(dataset, split, loaded if own else None).first(choice.limit)
    return images, f"{dataset.name}, {split} split"


def binarization(loaded: LoadedModel, asked: Binarize | None) -> Binarize:
    """How a model's images are binarized: as asked, or as in training.

    Raises:
        UsageError: it contradicts the model's likelihood.
    """
    binarize = loaded.binarize if asked is None else asked
    for name, sentence in contradictions(loaded.config, binarize):
        raise UsageError(f"--{name} {sentence}", "Leave --binarize out for this model.")
    return binarize


def _part(dataset: Dataset, split: Split | Literal["all"], own: LoadedModel | None) -> Images:
    """The images of a split; `own` is the model if it was trained on this data.

    Raises:
        DataError: there is no such split.
    """
    if split == "all":
        return join(list(dataset.splits.values()))
    if split in dataset.splits:
        return dataset.splits[split]
    run = None if own is None else own.run
    if run is not None and run.config.training.patience:
        from vaecli.training.patience import watched_split

        return watched_split(dataset, run.config.training)[1]
    raise DataError(
        f"--split {split}: {dataset.name} has no {split} split",
        "Choose another split; training with --patience makes one.",
    )


def _dataset(loaded: LoadedModel, choice: Choice, reading: Reading) -> tuple[Dataset, bool]:
    """The data named, and whether they are those the model was trained on."""
    run, data = loaded.run, choice.data or loaded.data
    if data is None and run is None:
        raise UsageError(
            f"{loaded.path}: a loose weights file does not say what data it belongs to",
            "Name the data with --data.",
        )
    known = None if run is None else provenance.Provenance.of(run)
    if known is None or not known.is_own(data):
        assert data is not None
        preparation = None
        if catalogue.is_path(data):
            whole = choice.split is None
            preparation = provenance.preparation(loaded.config, run, whole=whole)
        options = Options(skip_bad=choice.skip_bad)
        dataset = catalogue.load(data, reading, options, preparation)
        for warning in dataset.account.warnings:
            reading.report(f"{dataset.name}: {warning}")
        return dataset, data == loaded.data
    run = known.run
    name, options = known.whereabouts()
    options = replace(options, skip_bad=options.skip_bad or choice.skip_bad)
    dataset = catalogue.load(name, reading, options)
    if not provenance.is_prepared_for(loaded.config, dataset):
        preparation = provenance.preparation(loaded.config, run, whole=False)
        dataset = catalogue.load(name, reading, options, preparation)
    dataset = dataset.limited(run.config.training.limit)
    for text in dataset.account.left_out_texts:
        reading.report(f"{dataset.name}: left out: {text}")
    if dataset.fingerprint() != run.config.data.fingerprint:
        reading.report(f"the data {dataset.name} changed since {run.path} was trained")
    return dataset, True


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
