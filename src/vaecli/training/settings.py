"""The settings of a training, declared once for `vaecli train` and `vaecli.train`.

Without torch, so that `--help` and completion stay instant.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from vaecli.config import (
    HIDDEN,
    LATENT_CHANNELS,
    Activation,
    ArchChoice,
    Binarize,
    Condition,
    Gradient,
    LearnedPrior,
    Likelihood,
    ModelConfig,
    OutputBias,
    Precision,
    Schedule,
    TrainConfig,
)
from vaecli.errors import UsageError
from vaecli.training.recipe import RECIPES, SMALL_SET_STEPS

DATA, MODEL, OBJECTIVE, TRAINING = "Data", "Model", "Objective", "Training"
"""Panels of --help."""
SKIP_BAD_HELP = "Leave out and list unreadable images."
BINARIZE_HELP = (
    "Draw pixels black or white by their grey level: dynamic, anew each epoch; static, once."
)


@dataclass(frozen=True)
class Setting:
    """What help says of a field of `Settings`, and how the command line reads it.

    Attributes:
        text: what it is.
        panel: the part of help it stands in.
        metavar: what help calls its value.
        default: what help calls its default.
        short: the option of one letter.
        parser: makes the value from the text of the command line.
    """

    text: str
    panel: str
    metavar: str | None = None
    default: object = None
    short: str | None = None
    parser: Callable[[str], Any] | None = None


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = text.lower().split("x") if "x" in text.lower() else (text, text)
        return int(height), int(width)
    except ValueError:
        raise UsageError(
            f"--image-size {text}: not a size", "Write it like 64, or like 48x64: height x width."
        ) from None


def _max_value(text: str) -> float | str:
    try:
        return text if text in ("auto", "full") else float(text)
    except ValueError:
        raise UsageError(
            f"--max-value {text}: not a number", "Write a number, full or auto."
        ) from None


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--hidden {text}: not a list of whole numbers", "Write it like 400 or 300,300."
        ) from None


def _tuned(field: str) -> str:
    """The default of a field of TrainConfig, and that of an architecture that has another."""
    others = [
        f", or {recipe[field]:g} for {arch}" for arch, recipe in RECIPES.items() if field in recipe
    ]
    return f"{getattr(TrainConfig, field):g}{''.join(others)}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a training; None where one is not given.

    Each is a field of ModelConfig, TrainConfig or `origin.Options`, and an option of
    `vaecli train`.
    """

    limit: Annotated[
        int | None, Setting("Use only the first N training images.", DATA, "N", "all")
    ] = None
    image_size: Annotated[
        tuple[int, int] | int | None,
        Setting("Resize images to this size.", DATA, "N|HxW", "common size, or 64", parser=_size),
    ] = None
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        Setting("crop, pad or stretch images of another shape.", DATA, "NAME", "crop"),
    ] = None
    max_value: Annotated[
        float | Literal["auto", "full"] | None,
        Setting(
            "The value of white: auto (from the whole set), N, or full (the type's maximum).",
            DATA,
            "N",
            "auto",
            parser=_max_value,
        ),
    ] = None
    channels: Annotated[
        int | None, Setting("1 for grey or 3 for colour.", DATA, "N", "as found")
    ] = None
    test_fraction: Annotated[
        float | None,
        Setting("Share held out if the data has no test split.", DATA, "SHARE", "0.1"),
    ] = None
    image_column: Annotated[
        str | None, Setting("Parquet: column of the images.", DATA, "NAME", "found by type")
    ] = None
    label_column: Annotated[
        str | None, Setting("Parquet: column of the classes.", DATA, "NAME", "found by type")
    ] = None
    skip_bad: Annotated[bool | None, Setting(SKIP_BAD_HELP, DATA)] = None
    arch: Annotated[
        ArchChoice | None,
        Setting(
            "mlp, conv (residual), grid (latents at every position: sharp) or auto: mlp for small"
            " grey images, else grid.",
            MODEL,
            "NAME",
            "auto",
        ),
    ] = None
    hidden: Annotated[
        tuple[int, ...] | None,
        Setting(
            "Hidden widths; conv, grid: first-stage channels.",
            MODEL,
            "WIDTHS",
            ", ".join(f"{arch} {widths[0]}" for arch, widths in HIDDEN.items()),
            parser=_widths,
        ),
    ] = None
    activation: Annotated[
        Activation | None,
        Setting("relu, gelu, silu or tanh.", MODEL, "NAME", ModelConfig.activation),
    ] = None
    latent_dim: Annotated[
        int | None,
        Setting(
            "Latent dimension; grid: latents per position.",
            MODEL,
            "N",
            f"{ModelConfig.latent_dim}, grid {LATENT_CHANNELS}",
        ),
    ] = None
    likelihood: Annotated[
        Likelihood | None,
        Setting(
            "p(x|z): bernoulli, logistic or logistic-mixture (256 levels, in bits), gaussian or"
            " continuous-bernoulli.",
            MODEL,
            "NAME",
            f"{ModelConfig.likelihood}; colour: logistic-mixture, mlp logistic",
        ),
    ] = None
    prior: Annotated[
        LearnedPrior | None,
        Setting(
            "p(z): normal, or learned with the model: mixture or flow.",
            MODEL,
            "NAME",
            ModelConfig.prior,
        ),
    ] = None
    condition: Annotated[
        Condition | None,
        Setting(
            "labels: give the class of an image to encoder, decoder and prior.",
            MODEL,
            "NAME",
            ModelConfig.condition,
        ),
    ] = None
    beta: Annotated[
        float | None, Setting("Weight of the KL.", OBJECTIVE, "WEIGHT", TrainConfig.beta)
    ] = None
    warmup_epochs: Annotated[
        int | None,
        Setting(
            "Epochs over which beta rises from 0.",
            OBJECTIVE,
            "N",
            f"{TrainConfig.warmup_epochs}; grid in colour: all, but not with --patience",
        ),
    ] = None
    free_bits: Annotated[
        float | None,
        Setting(
            "KL per latent dimension that is not penalised.",
            OBJECTIVE,
            "NATS",
            TrainConfig.free_bits,
        ),
    ] = None
    importance_samples: Annotated[
        int | None,
        Setting(
            "K > 1 trains the importance-weighted bound.",
            OBJECTIVE,
            "K",
            TrainConfig.importance_samples,
        ),
    ] = None
    gradient: Annotated[
        Gradient | None,
        Setting(
            "With K > 1, of the encoder: dreg (less noise) or iwae.",
            OBJECTIVE,
            "NAME",
            "dreg, grid iwae",
        ),
    ] = None
    binarize: Annotated[
        Binarize | None, Setting(BINARIZE_HELP, OBJECTIVE, "NAME", TrainConfig.binarize)
    ] = None
    epochs: Annotated[
        int | None,
        Setting(
            "Passes over the training images.",
            TRAINING,
            "N",
            f"{TrainConfig.epochs}; own images at least {SMALL_SET_STEPS:,} steps",
            short="-e",
        ),
    ] = None
    batch_size: Annotated[
        int | None, Setting("Images per step.", TRAINING, "N", _tuned("batch_size"), short="-b")
    ] = None
    lr: Annotated[float | None, Setting("Peak learning rate.", TRAINING, "RATE", _tuned("lr"))] = (
        None
    )
    schedule: Annotated[
        Schedule | None,
        Setting(
            "linear or cosine decay; constant has no warm-up.",
            TRAINING,
            "NAME",
            TrainConfig.schedule,
        ),
    ] = None
    output_bias: Annotated[
        OutputBias | None,
        Setting(
            "Initial output bias: mean image or zero.",
            TRAINING,
            "NAME",
            TrainConfig.output_bias,
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        Setting(
            "fp32, bf16 or, on CUDA, tf32 while training.", TRAINING, "NAME", TrainConfig.precision
        ),
    ] = None
    patience: Annotated[
        int | None,
        Setting(
            "Stop after N epochs without a better loss on a held-out tenth of the images;"
            " keep the best weights.",
            TRAINING,
            "N",
            TrainConfig.patience,
        ),
    ] = None
    seed: Annotated[
        int | None, Setting("The only source of randomness.", TRAINING, "N", TrainConfig.seed)
    ] = None

    @classmethod
    def from_names(cls, values: Mapping[str, Any]) -> Settings:
        """The settings of these names.

        Raises:
            UsageError: there is no such setting.
        """
        known = {"data", *cls.__dataclass_fields__}
        for name in values.keys() - cls.__dataclass_fields__:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(known))}."
            )
            raise UsageError(f"{name}: unknown setting", hint)
        return cls(**values)

    def given(self, kind: type[Any] | None = None) -> dict[str, Any]:
        """The settings that are given, by name: all of them, or those that are fields of `kind`.

        An architecture that is to be chosen is not given.
        """
        names = {field.name for field in fields(kind or Settings)}
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None and name in names and (name, value) != ("arch", "auto")
        }


def as_text(value: object) -> str:
    """A value as the command line has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
