"""Turn the settings a user gave into a configuration, reporting all bad values at once.

`given` maps field names of ModelConfig, TrainConfig and Options to values; a missing key was not
given.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vaecli.config import (
    COLOUR_LIKELIHOOD,
    RECIPES,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    as_options,
    contradictions,
)
from vaecli.data import catalogue
from vaecli.data.dataset import Dataset
from vaecli.data.levels import as_settings
from vaecli.data.origin import Options
from vaecli.errors import DataError, UsageError
from vaecli.system.limits import MAX_CLASS_NAMES_BYTES
from vaecli.training.provenance import OWN_FIELDS, options_given

MODEL_FIELDS = {field.name for field in fields(ModelConfig)}
TRAIN_FIELDS = {field.name for field in fields(TrainConfig)}
DATA_FIELDS = {
    "image_shape",
    "border",
    "digits",
    "fit",
    "white_8",
    "white_16",
    "white_integer",
    "float_range",
}
"""What a model's configuration takes from the images."""


def require_sound(given: Mapping[str, Any]) -> None:
    """Report every bad value at once, before any data is loaded.

    Raises:
        UsageError: a setting is unknown, or its value is wrong.
    """
    asked_for = (MODEL_FIELDS - DATA_FIELDS) | (TRAIN_FIELDS - {"init_from"})
    known = asked_for | OWN_FIELDS | {"data"}
    for name in given.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(known))}."
        raise UsageError(f"{name}: unknown setting", hint)
    model = ModelConfig(**{"image_shape": (1, 28, 28), **_of(MODEL_FIELDS - DATA_FIELDS, given)})
    problems = [
        *model.problems(),
        *training(given).problems(),
        *options_given(Options(), given).problems(),
        *contradictions(model, training(given).binarize),
    ]
    if problems:
        raise UsageError(as_options(problems))


def configuration(
    given: Mapping[str, Any], dataset: Dataset, environment: dict[str, str | int]
) -> RunConfig:
    """The configuration of a new run on `dataset`.

    Raises:
        DataError: these images cannot be trained on so.
    """
    if not len(dataset.train) or not len(dataset.test):
        raise DataError(f"--data {dataset.name}: it has no images")
    if given.get("patience") and dataset.validation is None and len(dataset.train) < 2:
        raise DataError(
            f"--data {dataset.name}: it has one training image, and --patience needs one to train"
            " on and one to hold out",
            "Leave --patience out, or use more images.",
        )
    return RunConfig(
        model=_model(given, dataset),
        training=training(given),
        data=_data(dataset),
        environment=environment,
    )


def training(given: Mapping[str, Any]) -> TrainConfig:
    """The training settings: those given, and defaults tuned for the architecture."""
    recipe = RECIPES.get(given.get("arch", ModelConfig.arch), {})
    return TrainConfig(**{**recipe, **_of(TRAIN_FIELDS, given)})


def _model(given: Mapping[str, Any], dataset: Dataset) -> ModelConfig:
    settings = _of(MODEL_FIELDS - DATA_FIELDS, given)
    if dataset.origin is not None:
        settings |= {"fit": dataset.origin.options.fit, **as_settings(dataset.origin.levels)}
    colour = dataset.image_shape[0] == 3
    if colour and given.get("binarize", "none") == "none":  # black and white need a Bernoulli
        settings.setdefault("likelihood", COLOUR_LIKELIHOOD)
    model = ModelConfig(
        image_shape=dataset.image_shape,
        border=dataset.border(),
        digits=dataset.origin is None and dataset.name in catalogue.DIGITS,
        **settings,
    )
    if problems := list(model.problems()):
        raise DataError(
            f"--data {dataset.name}: {as_options(problems)}",
            "Use --arch mlp, or larger images." if model.arch == "conv" else "",
        )
    return model


def _data(dataset: Dataset) -> DataConfig:
    return DataConfig(
        name=dataset.name,
        fingerprint=dataset.fingerprint(),
        n_train=len(dataset.train),
        n_test=len(dataset.test),
        classes=_classes(dataset),
        n_validation=0 if dataset.validation is None else len(dataset.validation),
        kind="named" if dataset.origin is None else dataset.origin.kind,
        n_skipped=0 if dataset.origin is None else dataset.origin.skipped,
        shuffle_window=0 if dataset.origin is None else dataset.origin.window,
    )


def _classes(dataset: Dataset) -> tuple[str, ...]:
    """Names of the classes in order of their labels; none where they are too long to keep."""
    names = tuple(name for _, name in sorted(dataset.train.classes.items()))
    size = len(json.dumps(names, indent=6))  # as config.json is written
    return names if size <= MAX_CLASS_NAMES_BYTES else ()


def _of(names: set[str], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}
