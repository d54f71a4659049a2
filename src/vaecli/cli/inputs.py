"""What most commands start with: loading a model, and images to put through it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vaecli.cli.options import Common
from vaecli.errors import DataError, UsageError

if TYPE_CHECKING:
    from vaecli.config import Binarize
    from vaecli.data.dataset import Bytes, Dataset, Images
    from vaecli.data.digit_fit import Invert
    from vaecli.data.picture_fit import Fit
    from vaecli.data.splits_and_classes import Split
    from vaecli.evaluation.generation import Runner
    from vaecli.model.vae import VAE
    from vaecli.runs.load import LoadedModel


TORCH_IS_FASTER = 55e9
"""Multiplications from which it is torch.  On two cores both took as long, torch's import included,
for about 4,000 digits of conv (36e9), and for 3,000 colour pictures of 64x64 (210e9)."""


def load_model(common: Common, spec: str | None) -> LoadedModel:
    """The model named by --model; says which one `latest` is."""
    from vaecli.runs.load import LATEST
    from vaecli.runs.load import load_model as load

    loaded = load(spec or LATEST, download=common.download)
    if spec in (None, LATEST):
        common.terminal.note(f"model: {loaded.path}")
    common.terminal.detail(f"{loaded.path}: {loaded.config}")
    return loaded


def in_torch(common: Common, loaded: LoadedModel) -> VAE:
    """The model in torch, on the device of --device."""
    from vaecli.system import device

    common.use_threads(None if loaded.run is None else loaded.run.config.threads)
    where = device.resolve(common.device)
    common.terminal.detail(f"computed in torch on {where}")
    return loaded.model.to(where)


def runner(common: Common, loaded: LoadedModel, images: int = 0) -> Runner:
    """The model to make pictures with: numpy, which starts at once, unless a GPU is asked for.

    Args:
        common: options.
        loaded: the model.
        images: how many there are; with so many that importing torch is repaid, it is torch.
    """
    from vaecli.model import network

    few = images * network.products(loaded.config) < TORCH_IS_FASTER
    if common.device in ("auto", "cpu") and few:
        from vaecli.model.numpy_vae import NumpyVAE

        common.check_threads()
        return NumpyVAE(loaded.config, loaded.weights, common.threads)
    from vaecli.model.vae import TorchRunner

    return TorchRunner(in_torch(common, loaded))


def load_images(
    common: Common,
    loaded: LoadedModel,
    data: str | None,
    split: Split | Literal["all"] | None,
    limit: int | None,
    binarize: Binarize = "none",
    skip_bad: bool = False,
) -> tuple[Images, str]:
    """Images of the model's shape, and what to call them.

    Only static binarization is done here: it belongs to a place in the whole set.
    """
    from vaecli.data.dataset import static_binarized

    dataset, own = _dataset(common, loaded, data, split, skip_bad)
    shape = loaded.config.image_shape
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
    return images, f"{dataset.name}, {split} split"


def _part(dataset: Dataset, split: Split | Literal["all"], own: LoadedModel | None) -> Images:
    """The images of a split; `own` is the model if it was trained on this data.

    Raises:
        DataError: there is no such split.
    """
    from vaecli.data.dataset import join

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

    run, data = loaded.run, data or loaded.data
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
                preparation = provenance.preparation(loaded.config, run, whole=split is None)
            options = Options(skip_bad=skip_bad)
            dataset = catalogue.load(data, reading, options, preparation)
            for warning in dataset.account.warnings:
                common.terminal.warning(f"{dataset.name}: {warning}")
            return dataset, data == loaded.data
        run = known.run
        name, options = known.whereabouts()
        options = replace(options, skip_bad=options.skip_bad or skip_bad)
        dataset = catalogue.load(name, reading, options)
        if not provenance.is_prepared_for(loaded.config, dataset):
            preparation = provenance.preparation(loaded.config, run, whole=False)
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


def read_picture(
    loaded: LoadedModel,
    source: Path | bytes,
    *,
    fit: Fit = "auto",
    invert: Invert = "auto",
    name: str,
) -> tuple[Bytes, tuple[str, ...]]:
    """An image file, or its bytes, at the model's shape.

    Returns:
        (C, H, W) uint8, and a note on each change that was made.

    Raises:
        DataError: it cannot be read.
    """
    from vaecli.data import levels
    from vaecli.data.image_file import read_image
    from vaecli.data.picture_fit import prepare

    config = loaded.config
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
    return pixels, tuple(f"{name}: {note}" for note in notes)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
