"""Turn the settings a user gave into a configuration, reporting all bad values at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from vaecli.config import (
    LATENT_CHANNELS,
    SMALLEST_CONVOLVED,
    Arch,
    Binarize,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from vaecli.data import catalogue, labels
from vaecli.data.dataset import Dataset
from vaecli.data.levels import as_settings
from vaecli.data.origin import Options
from vaecli.errors import DataError, UsageError, as_options
from vaecli.training.recipe import COLOUR_LIKELIHOODS, RECIPES, SMALL_SET_STEPS
from vaecli.training.settings import Settings

CLASSIC_SIDE = 32
"""Grey images up to this side are for an mlp, where no architecture is given."""
MODEL_SETTINGS = tuple(
    field.name
    for field in fields(ModelConfig)
    if field.name in {setting.name for setting in fields(Settings)} and field.name != "fit"
)
"""Settings of the architecture; the other fields of ModelConfig, fit too, tell of the images."""


def require_sound(settings: Settings) -> None:
    """Report every bad value at once, before any data is loaded.

    Raises:
        UsageError: a value is wrong.
    """
    known = {"image_shape": (1, 28, 28), **_architecture(settings)}
    if settings.condition == "labels":  # of which classes, the images will tell
        known |= {"classes": ("0", "1"), "class_counts": (1, 1)}
    model = ModelConfig(**known)
    problems = [
        *model.problems(),
        *training(settings).problems(),
        *Options(**settings.given(Options)).problems(),
        *contradictions(model, training(settings).binarize),
        *_contradictions(model, training(settings)),
    ]
    if problems:
        raise UsageError(as_options(problems))


def _contradictions(model: ModelConfig, training: TrainConfig) -> Iterator[tuple[str, str]]:
    if training.free_bits and model.prior != "normal":
        why = "its rate is not a sum over latents"
        yield "free_bits", f"contradicts --prior {model.prior}: {why}"
    if model.condition != "none" and model.prior != "normal":
        why = "a learned prior is that of all classes together, and samples would not be of one"
        yield "condition", f"labels contradicts --prior {model.prior}: {why}"
    if training.gradient == "dreg" and model.arch == "grid":
        why = "its posteriors depend on each other's draws"
        yield "gradient", f"dreg contradicts --arch grid: {why}"


def contradictions(model: ModelConfig, binarize: Binarize) -> Iterator[tuple[str, str]]:
    """Yield (field, sentence) for settings that are right by themselves but not together."""
    if binarize != "none" and model.likelihood != "bernoulli":
        why = "black and white pixels need bernoulli"
        yield "binarize", f"{binarize} contradicts --likelihood {model.likelihood}: {why}"


def configuration(
    settings: Settings,
    dataset: Dataset,
    environment: dict[str, str | int],
    init_from: str | None = None,
) -> RunConfig:
    """The configuration of a new run on `dataset`.

    Args:
        settings: those that were given.
        dataset: the images.
        environment: what is recorded besides.
        init_from: digest of the weights training starts from; None for fresh ones.

    Raises:
        DataError: these images cannot be trained on so.
    """
    if not len(dataset.train) or not len(dataset.test):
        raise DataError(f"--data {dataset.name}: it has no images")
    if settings.patience and dataset.validation is None and len(dataset.train) < 2:
        raise DataError(
            f"--data {dataset.name}: it has one training image, and --patience needs one to train"
            " on and one to hold out",
            "Leave --patience out, or use more images.",
        )
    settings = _with_arch(settings, dataset)
    model = _model(settings, dataset)
    long_enough = _long_enough(training(settings, init_from), settings, dataset)
    return RunConfig(
        model=model,
        training=_warmed_up(long_enough, settings, model),
        data=_data(dataset),
        environment=environment,
    )


def training(settings: Settings, init_from: str | None = None) -> TrainConfig:
    """The training settings: those given, and defaults tuned for the architecture."""
    arch = settings.given().get("arch", ModelConfig.arch)
    recipe = RECIPES.get(arch, {})
    if (settings.importance_samples or 1) > 1 and arch != "grid":
        recipe = {"gradient": "dreg", **recipe}
    return TrainConfig(**{**recipe, **settings.given(TrainConfig), "init_from": init_from})


def _with_arch(settings: Settings, dataset: Dataset) -> Settings:
    """With the architecture for these images, where none is given.

    Raises:
        UsageError: what is given besides contradicts it.
    """
    if settings.given().get("arch") is not None:
        return settings
    several = len(settings.hidden or ()) > 1  # widths, as only an mlp has them
    arch = "mlp" if several else _chosen_arch(dataset.image_shape)
    settings = replace(settings, arch=arch)
    try:
        require_sound(settings)
    except UsageError as error:
        raise UsageError(
            f"--data {dataset.name}: without --arch, these images take {arch}; {error.message}",
            "Leave the option out, or add --arch conv or --arch mlp.",
        ) from None
    return settings


def _chosen_arch(image_shape: tuple[int, int, int]) -> Arch:
    """The architecture for images of this shape, where none is given."""
    channels, height, width = image_shape
    classic = channels == 1 and max(height, width) <= CLASSIC_SIDE
    return "mlp" if classic or min(height, width) < SMALLEST_CONVOLVED else "grid"


def _long_enough(config: TrainConfig, settings: Settings, dataset: Dataset) -> TrainConfig:
    """More epochs for few images of the user's own, which as many would leave half trained."""
    if settings.epochs is not None or dataset.origin is None:
        return config
    validation = 0 if dataset.validation is None else len(dataset.validation)
    images = config.fitted(len(dataset.train), validation)
    steps = -(-images // config.batch_size)
    return replace(config, epochs=max(config.epochs, -(-SMALL_SET_STEPS // steps)))


def _warmed_up(config: TrainConfig, settings: Settings, model: ModelConfig) -> TrainConfig:
    """The weight of the rate rises over the whole training of a grid with logistic-mixture.

    With its whole weight from the start, latents are given up before the decoder can use them: at
    equal loss, reconstructions and samples are worse (docs/convolutions.md).  Not where the number
    of epochs may still grow, as with a constant learning rate, nor with --patience: a loss that
    gets worse while the weight rises would end the training.
    """
    fixed = config.schedule != "constant" and not config.patience and config.init_from is None
    detailed = model.arch == "grid" and model.likelihood == "logistic-mixture"
    if settings.warmup_epochs is not None or not (detailed and fixed):
        return config
    return replace(config, warmup_epochs=config.epochs)


def _architecture(settings: Settings) -> dict[str, Any]:
    given = {name: v for name, v in settings.given().items() if name in MODEL_SETTINGS}
    return {"latent_dim": LATENT_CHANNELS, **given} if given.get("arch") == "grid" else given


def _model(settings: Settings, dataset: Dataset) -> ModelConfig:
    values = _architecture(settings)
    if dataset.origin is not None:
        values |= {"fit": dataset.origin.options.fit, **as_settings(dataset.origin.levels)}
    colour = dataset.image_shape[0] == 3
    if colour and training(settings).binarize == "none":  # black and white need a Bernoulli
        values.setdefault("likelihood", COLOUR_LIKELIHOODS[values["arch"]])
    if values.get("condition") == "labels":
        values |= labels.condition(dataset)
    model = ModelConfig(
        image_shape=dataset.image_shape,
        border=dataset.border(),
        digits=dataset.origin is None and dataset.name in catalogue.DIGITS,
        **values,
    )
    if problems := list(model.problems()):
        raise DataError(
            f"--data {dataset.name}: {as_options(problems)}",
            "Use --arch mlp, or larger images." if model.arch != "mlp" else "",
        )
    return model


def _data(dataset: Dataset) -> DataConfig:
    return DataConfig(
        name=dataset.name,
        fingerprint=dataset.fingerprint(),
        n_train=len(dataset.train),
        n_test=len(dataset.test),
        classes=dataset.class_names,
        n_validation=0 if dataset.validation is None else len(dataset.validation),
        kind="named" if dataset.origin is None else dataset.origin.kind,
        n_skipped=0 if dataset.origin is None else dataset.origin.skipped,
        shuffle_window=0 if dataset.origin is None else dataset.origin.window,
    )
