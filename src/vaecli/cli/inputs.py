"""What most commands start with: loading a model, and images to put through it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vaecli.cli.options import Common
from vaecli.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vaecli.config import Binarize
    from vaecli.data.dataset import Dataset, Images
    from vaecli.data.digit_fit import Invert
    from vaecli.data.picture_fit import Fit
    from vaecli.data.splits_and_classes import Split
    from vaecli.noise import LevelNoise
    from vaecli.runs.load import LoadedModel


def load_model(common: Common, spec: str | None) -> LoadedModel:
    """The model named by --model on the device of --device; says which one `latest` is."""
    from vaecli.runs.load import LATEST
    from vaecli.runs.load import load_model as load
    from vaecli.system import device

    loaded = load(spec or LATEST, download=common.download)
    if spec in (None, LATEST):
        common.terminal.note(f"model: {loaded.path}")
    common.use_threads(None if loaded.run is None else loaded.run.config.threads)
    where = device.resolve(common.device)
    loaded.model.to(where)
    common.terminal.detail(f"{loaded.path}: {loaded.model.config} on {where}")
    return loaded


def load_images(
    common: Common,
    loaded: LoadedModel,
    data: str | None,
    split: Split | Literal["all"] | None,
    limit: int | None,
    binarize: Binarize = "none",
    skip_bad: bool = False,
) -> tuple[Images, str]:
    """Images of the model's shape, and what to call them; on its device where they fit.

    Only static binarization is done here: it belongs to a place in the whole set.
    """
    from vaecli.data.dataset import static_binarized

    dataset, own = _dataset(common, loaded, data, split, skip_bad)
    shape = loaded.model.config.image_shape
    if dataset.image_shape != shape:
        raise DataError(
            f"--data {dataset.name}: its images are {_by(dataset.image_shape)},"
            f" the model's {_by(shape)}",
            "Choose data of the model's shape.",
        )
    if binarize == "static":
        dataset = static_binarized(dataset)
    split = split or ("test" if own else "all")
    images = _part(dataset, split, loaded if own else None).first(limit)
    device = loaded.model.device
    return images.to(device), f"{dataset.name}, {split} split"


def _part(dataset: Dataset, split: Split | Literal["all"], own: LoadedModel | None) -> Images:
    """The images of a split; `own` is the model if it was trained on this data.

    Raises:
        DataError: there is no such split.
    """
    from vaecli.data.dataset import join
    from vaecli.training.patience import watched_split

    if split == "all":
        return join(list(dataset.splits.values()))
    if split in dataset.splits:
        return dataset.splits[split]
    run = None if own is None else own.run
    if run is not None and run.config.training.patience:
        return watched_split(dataset, run.config.training)[1]
    raise DataError(
        f"--split {split}: {dataset.name} has no {split} split",
        "Choose another split; training with --patience makes one.",
    )


def _dataset(
    common: Common,
    loaded: LoadedModel,
    data: str | None,
    split: Split | Literal["all"] | None,
    skip_bad: bool,
) -> tuple[Dataset, bool]:
    """The data named, and whether they are those the model was trained on."""
    from dataclasses import replace

    from vaecli.data import catalogue
    from vaecli.data.origin import Options
    from vaecli.training import provenance

    run = loaded.run
    if data is None and run is None:
        raise UsageError(
            f"{loaded.path}: a loose weights file does not say what data it belongs to",
            "Name the data with --data.",
        )
    with common.reading() as reading:
        known = None if run is None else provenance.Provenance.of(run)
        if known is None or not known.is_own(data):
            assert data is not None
            preparation = None
            if catalogue.is_path(data):
                preparation = provenance.preparation(loaded.model.config, run, whole=split is None)
            options = Options(skip_bad=skip_bad)
            dataset = catalogue.load(data, reading, options, preparation)
            for warning in dataset.account.warnings:
                common.terminal.warning(f"{dataset.name}: {warning}")
            return dataset, False
        run = known.run
        name, options = known.whereabouts()
        options = replace(options, skip_bad=options.skip_bad or skip_bad)
        dataset = catalogue.load(name, reading, options)
        if not provenance.is_prepared_for(loaded.model.config, dataset):
            preparation = provenance.preparation(loaded.model.config, run, whole=False)
            dataset = catalogue.load(name, reading, options, preparation)
        dataset = dataset.limited(run.config.training.limit)
    for text in dataset.account.left_out_texts:
        common.terminal.warning(f"{dataset.name}: left out: {text}")
    if dataset.fingerprint() != run.config.data.fingerprint:
        common.terminal.warning(f"the data {dataset.name} changed since {run.path} was trained")
    return dataset, True


def trained_binarize(loaded: LoadedModel) -> Binarize:
    """How the images were binarized that the model was trained on; not, where nothing says."""
    return "none" if loaded.run is None else loaded.run.config.training.binarize


def trained_levels(loaded: LoadedModel, seed: int) -> LevelNoise | None:
    """What makes images look as a model saw them that was trained with dynamic binarization."""
    from vaecli.noise import LevelNoise

    if trained_binarize(loaded) != "dynamic":
        return None
    device = loaded.model.device
    shape = loaded.model.config.image_shape
    return LevelNoise(shape, seed=seed, purpose="aggregate-posterior", device=device)


def load_picture(
    common: Common,
    loaded: LoadedModel,
    source: Path | bytes,
    *,
    fit: Fit = "auto",
    invert: Invert = "auto",
    name: str,
) -> Tensor:
    """An image file, or its bytes, at the model's shape; each change made is noted.

    Returns:
        (1, C, H, W) uint8 on the model's device.

    Raises:
        DataError: it cannot be read.
    """
    from vaecli.data import levels
    from vaecli.data.image_file import read_image
    from vaecli.data.picture_fit import prepare

    config = loaded.model.config
    picture = read_image(source, name=name, ranges=levels.of_model(config))
    if picture.levels is not None:
        levels.refuse([picture.levels], f"cannot read the image: {name}", black_too=False)
    pixels, notes = prepare(
        picture,
        config.image_shape,
        border=config.border,
        digits=config.digits,
        fit=fit,
        set_fit=config.fit,
        invert=invert,
        name=name,
    )
    for note in notes:
        common.terminal.note(f"{name}: {note}")
    return pixels[None].to(loaded.model.device)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
