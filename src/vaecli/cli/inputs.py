"""What most commands start with: loading a model, and images to put through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vaecli.cli.options import Common

if TYPE_CHECKING:
    import torch

    from vaecli.config import Binarize
    from vaecli.data.dataset import Images
    from vaecli.data.splits_and_classes import Split
    from vaecli.evaluation.generation import Runner
    from vaecli.model.vae import VAE
    from vaecli.runs.load import LoadedModel


TORCH_IS_FASTER = 55e9
"""Multiplications from which it is torch.  On two cores both took as long, torch's import included,
for about 4,000 digits of conv (36e9), and for 3,000 colour pictures of 64x64 (210e9)."""


def load_model(common: Common, spec: str | None, *, decoder_only: bool = False) -> LoadedModel:
    """The model named by --model; says which one `latest` is."""
    from vaecli.runs.load import LATEST
    from vaecli.runs.load import load_model as load

    loaded = load(spec or LATEST, download=common.download, decoder_only=decoder_only)
    if spec in (None, LATEST):
        common.terminal.note(f"model: {loaded.path}")
    common.terminal.detail(f"{loaded.path}: {loaded.config}")
    return loaded


def torch_device(common: Common, loaded: LoadedModel) -> torch.device:
    """The device of --device, and from now on the threads of --threads, or of the training."""
    from vaecli.system import device

    common.use_threads(None if loaded.run is None else loaded.run.config.threads)
    where = device.resolve(common.device)
    common.terminal.detail(f"computed in torch on {where}")
    return where


def in_torch(common: Common, loaded: LoadedModel) -> VAE:
    """The model in torch, on the device of --device."""
    return loaded.model.to(torch_device(common, loaded))


def by_numpy(common: Common, loaded: LoadedModel, images: int) -> bool:
    """Whether numpy computes this model: on the CPU, unless importing torch is repaid."""
    from vaecli.model import network

    few = images * network.products(loaded.config) < TORCH_IS_FASTER
    return common.device in ("auto", "cpu") and few


def runner(common: Common, loaded: LoadedModel, images: int = 0) -> Runner:
    """The model to make so many pictures with, in numpy, which starts at once, or in torch."""
    if by_numpy(common, loaded, images):
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
    """Images of the model's shape, and what to call them."""
    from vaecli.training import images_for_model

    choice = images_for_model.Choice(data, split, limit, skip_bad)
    with common.reading() as reading:
        images, source = images_for_model.load(loaded, choice, reading, binarize)
    if data is not None and split is None and source.endswith(", test split"):
        common.terminal.note(
            f"{data}: the model was trained on it, so only its test split ({len(images):,} images)"
            " is taken; --split all takes all"
        )
    return images, source
