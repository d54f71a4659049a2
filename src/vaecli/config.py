"""The configuration of a run: small frozen dataclasses with limits, to and from JSON; no torch.

A configuration is checked as a whole: `problems` lists everything that is wrong with it, as
pairs of a field name and a sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from vaecli.system.size_limits import MAX_CLASSES, MAX_HIDDEN_LAYERS, MAX_PIXELS, RANGES
from vaecli.system.typed_json import LATER, field_problems, from_json, plain, to_json, value_problem

FORMAT = 1
"""Version of the run directory's layout and of the weights' header."""

Arch = Literal["mlp", "conv", "grid"]
ArchChoice = Literal["auto", "mlp", "conv", "grid"]
Activation = Literal["relu", "gelu", "silu", "tanh"]
Likelihood = Literal[
    "bernoulli", "continuous-bernoulli", "gaussian", "logistic", "logistic-mixture"
]
Binarize = Literal["none", "dynamic", "static"]
Schedule = Literal["linear", "cosine", "constant"]
OutputBias = Literal["mean", "zero"]
LearnedPrior = Literal["normal", "mixture", "flow"]
Condition = Literal["none", "labels"]
Gradient = Literal["iwae", "dreg"]
Precision = Literal["fp32", "bf16", "tf32"]

SCALED_LIKELIHOODS: tuple[Likelihood, ...] = ("gaussian", "logistic")
"""Likelihoods with one learned scale, which the decoder then holds as `log_scale`."""
MIXTURE_COMPONENTS = 2
"""Components of a logistic mixture; measured, see docs/convolutions.md."""
HELD_OUT = 10
"""With patience, one training image in this many is held out of training."""

HIDDEN: dict[Arch, tuple[int, ...]] = {"mlp": (400,), "conv": (32,), "grid": (64,)}
"""What `hidden` is where it is not given."""
SMALLEST_CONVOLVED = 16
"""Shortest side of an image that `conv` and `grid` take."""
SMALLEST_LEVEL = 4
"""`grid` halves the image until no side is longer."""
LATENT_CHANNELS = 16
"""What `latent_dim` is for `grid` where it is not given."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture: everything needed to build the network a weights file belongs to."""

    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    arch: Arch = "mlp"
    """Kind of encoder and decoder."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers of an mlp's encoder, which the decoder mirrors; channels of the
    first stage of a conv and of a grid, one number; none: those of `HIDDEN`."""
    activation: Activation = "relu"
    """Nonlinearity between layers."""
    latent_dim: int = 20
    """Latent dimension L; channels of latents at each position for a grid."""
    likelihood: Likelihood = "bernoulli"
    """Distribution p(x|z) of the pixels."""
    prior: LearnedPrior = field(default="normal", metadata=LATER)
    """Distribution p(z) of the latents: N(0, I), or one that is learned with the model."""
    border: int = 0
    """Grey level (0-255) along the border of the training images: what new images are set on."""
    digits: bool = False
    """Whether the images are single digits, scaled and centred as MNIST's are."""
    fit: Literal["crop", "pad", "stretch"] = field(default="crop", metadata=LATER)
    """How the training images were brought to their size."""
    white_8: int | None = field(default=None, metadata=LATER)
    """Value of the 8-bit samples among the training images that counts as white."""
    white_16: int | None = field(default=None, metadata=LATER)
    """The same of 16-bit samples."""
    white_integer: int | None = field(default=None, metadata=LATER)
    """The same of whole numbers of another size."""
    float_range: tuple[float, float] | None = field(default=None, metadata=LATER)
    """Values of the floats among the training images that count as black and white."""
    condition: Condition = field(default="none", metadata=LATER)
    """Whether the class of an image is given to encoder, decoder and prior."""
    classes: tuple[str, ...] = field(default=(), metadata=LATER)
    """Names of these classes; a class is known to the network by its place here."""
    class_counts: tuple[int, ...] = field(default=(), metadata=LATER)
    """Training images of each."""

    def __post_init__(self) -> None:
        if self.hidden == () and self.arch in get_args(Arch):
            object.__setattr__(self, "hidden", HIDDEN[self.arch])

    @property
    def has_ranges(self) -> bool:
        """Whether it says what counts as white: for own images, since that is recorded."""
        whites = (self.white_8, self.white_16, self.white_integer, self.float_range)
        return any(white is not None for white in whites)

    @property
    def pixels(self) -> int:
        """Pixels times channels, D."""
        return math.prod(self.image_shape)

    @property
    def latents(self) -> int:
        """Numbers that stand for an image, L."""
        if self.arch != "grid":
            return self.latent_dim
        return self.latent_dim * sum(map(math.prod, self.levels[1:]))

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Height and width of each level of a grid, the finest first; it alone has no latents."""
        _, height, width = self.image_shape
        result = list[tuple[int, int]]()
        while max(height, width) > SMALLEST_LEVEL:
            height, width = -(-height // 2), -(-width // 2)
            result.append((height, width))
        return result

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape (P, H, W) of what the decoder gives: P numbers per pixel, the parameters of p."""
        channels, height, width = self.image_shape
        if self.likelihood == "logistic-mixture":
            channels = mixture_outputs(channels)
        return channels, height, width

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, sentence) for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if wrong:
            return
        if not 1 <= len(self.hidden) <= MAX_HIDDEN_LAYERS:
            yield "hidden", f"must have 1 to {MAX_HIDDEN_LAYERS} widths, not {len(self.hidden)}"
        if self.image_shape[0] not in (1, 3):
            yield "image_shape", f"must have 1 or 3 channels, not {self.image_shape[0]}"
        elif self.pixels > MAX_PIXELS:
            yield "image_shape", f"has {self.pixels:,} values, more than {MAX_PIXELS:,}"
        if self.float_range is not None and not self.float_range[0] < self.float_range[1]:
            yield "float_range", f"must be increasing, not {list(self.float_range)}"
        if self.prior != "normal" and self.arch == "grid":
            why = "its decoder is one already, and sample --prior flow-matching learns another"
            yield "prior", f"{self.prior} contradicts --arch grid: {why}"
        if self.prior == "flow" and self.latent_dim < 2:
            yield "prior", "flow needs at least 2 latents"
        if self.arch != "mlp":
            yield from self._convolved_problems()
        yield from self._class_problems()

    def _class_problems(self) -> Iterator[tuple[str, str]]:
        count = len(self.classes)
        if self.condition == "none":
            if self.classes or self.class_counts:
                yield "classes", "needs a condition"
        elif not 2 <= count <= MAX_CLASSES or len({*self.classes}) < count:
            yield "classes", f"must be 2 to {MAX_CLASSES:,} different names, not {count:,}"
        elif len(self.class_counts) != count:
            yield "class_counts", f"must be {count:,} numbers, not {len(self.class_counts):,}"

    def _convolved_problems(self) -> Iterator[tuple[str, str]]:
        if len(self.hidden) != 1:
            what = f"must be one number with --arch {self.arch}, the channels of its first stage"
            yield "hidden", f"{what}, not {len(self.hidden)}"
        _, height, width = self.image_shape
        if min(height, width) < SMALLEST_CONVOLVED:
            least = f"{SMALLEST_CONVOLVED}x{SMALLEST_CONVOLVED}"
            yield "arch", f"{self.arch} needs images of at least {least}, not {height}x{width}"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 128
    """Images per optimizer step, over all processes."""
    lr: float = 6e-3
    """Peak learning rate of Adam."""
    schedule: Schedule = "linear"
    """`linear` and `cosine` warm up and then decay to zero; `constant` does neither."""
    output_bias: OutputBias = "mean"
    """Start of the decoder's output bias: the mean training image, or zero."""
    beta: float = 1.0
    """Weight of the rate in the objective."""
    warmup_epochs: int = 0
    """Epochs over which that weight rises from 0."""
    free_bits: float = 0.0
    """Nats of each latent dimension's rate that the objective does not penalise."""
    importance_samples: int = 1
    """Latents drawn per image; more than one trains the importance-weighted bound."""
    gradient: Gradient = field(default="iwae", metadata=LATER)
    """Of the importance-weighted bound for the encoder: its own, or the doubly reparameterized one,
    which has less noise."""
    binarize: Binarize = "none"
    """Pixels as black or white: never, redrawn each epoch, or drawn once."""
    precision: Precision = "fp32"
    """Of matrix products while training; evaluation is always in float32."""
    seed: int = 0
    """The only source of randomness."""
    limit: int | None = None
    """Use only the first N training images."""
    patience: int = 0
    """Stop after this many epochs without a better loss on held-out training images; 0: never."""
    init_from: str | None = None
    """Digest of the weights training starts from, instead of fresh ones; never a path."""

    def fitted(self, images: int, validation: int = 0) -> int:
        """How many of `images` training images are trained on.

        With patience and no `validation` images to watch, a part of them is held out.
        """
        held_out = self.patience and not validation
        return images - max(1, images // HELD_OUT) if held_out else images

    @property
    def optimises_loss(self) -> bool:
        """Whether the objective is the loss itself."""
        weighted = self.beta != 1 or self.warmup_epochs or self.free_bits
        return not weighted and self.importance_samples == 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, sentence) for everything that is wrong."""
        yield from field_problems(self)
        if isinstance(self.lr, float) and not (math.isfinite(self.lr) and self.lr > 0):
            yield "lr", f"must be a finite number above 0, not {self.lr:g}"
        if self.free_bits and self.importance_samples != 1:
            why = "the importance-weighted bound has no rate per dimension"
            yield "free_bits", f"contradicts --importance-samples: {why}"
        if self.gradient == "dreg" and self.importance_samples == 1:
            yield "gradient", "dreg needs --importance-samples above 1"
        if isinstance(self.init_from, str) and not re.fullmatch("[0-9a-f]{64}", self.init_from):
            yield "init_from", "must be a SHA-256 in hexadecimal"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images a run was trained on."""

    name: str
    """Name of the data set, never a path."""
    fingerprint: str
    """SHA-256 over pixels, labels and split."""
    n_train: int
    """Training images."""
    n_test: int
    """Test images."""
    n_validation: int = 0
    """Images of a validation split, which are not trained on."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in order of their labels; other data is matched by them."""
    kind: Literal["named", "folder", "array"] = "named"
    """A set known by its name, or the user's own images, whose place `state/source.json` keeps."""
    n_skipped: int = 0
    """Unreadable images left out."""
    shuffle_window: int = 0
    """Images shuffled together where the set is read from disk; 0 shuffles all together."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, sentence) for everything that is wrong."""
        yield from field_problems(self)


CONFIG_KEYS = frozenset({"format", "model", "training", "data", "environment"})
"""The keys of a config.json, by which vaecli knows its own."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides the numbers of a run, and the versions it was made with."""

    model: ModelConfig
    training: TrainConfig
    data: DataConfig
    environment: dict[str, str | int]
    """Versions, device and thread count; recorded, not compared."""

    @property
    def threads(self) -> int | None:
        """CPU threads it was started with, where it says."""
        threads = self.environment.get("threads")
        return threads if isinstance(threads, int) else None

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "format": FORMAT,
            "model": to_json(self.model),
            "training": to_json(self.training),
            "data": to_json(self.data),
            "environment": self.environment,
        }

    @classmethod
    def from_json(cls, data: object) -> RunConfig:
        """Read the content of config.json.

        Raises:
            ValueError: it is not one that `to_json` writes.
        """
        if not isinstance(data, dict) or type(data.get("format")) is not int:
            raise ValueError("it is not a vaecli configuration")
        refuse_newer(data["format"])
        if data.keys() != CONFIG_KEYS or not isinstance(data["environment"], dict):
            raise ValueError(
                f"it must have the keys {', '.join(sorted(CONFIG_KEYS))}, and no others"
            )
        _check_environment(data["environment"])
        return cls(
            model=from_json(ModelConfig, data["model"], where="model"),
            training=from_json(TrainConfig, data["training"], where="training"),
            data=from_json(DataConfig, data["data"], where="data"),
            environment=data["environment"],
        )

    def differences(self, other: RunConfig) -> list[str]:
        """The settings in which two runs differ, as `name: mine, theirs`."""
        return [
            f"{field.name}: {plain(mine)}, not {plain(theirs)}"
            for part in ("model", "training", "data")
            for field in fields(getattr(self, part))
            if (mine := getattr(getattr(self, part), field.name))
            != (theirs := getattr(getattr(other, part), field.name))
        ]


def refuse_newer(version: int) -> None:
    """ValueError for a format this version of vaecli does not read."""
    if version > FORMAT:
        raise ValueError(
            f"it has format {str(version)[:20]}, this vaecli reads up to {FORMAT}; upgrade vaecli"
        )


def _check_environment(environment: dict[str, object]) -> None:
    """ValueError unless it is plain values, and a thread count that can be set."""
    if any(type(value) not in (str, int) for value in environment.values()):
        raise ValueError("environment: it may hold only strings and whole numbers")
    if sentence := value_problem(environment.get("threads", 1), int, *RANGES["threads"]):
        raise ValueError(f"environment.threads: {sentence}")


def mixture_outputs(channels: int) -> int:
    """Numbers per pixel of a logistic mixture; see `logistic_mixture.py`."""
    return MIXTURE_COMPONENTS * (1 + 2 * channels + channels * (channels - 1) // 2)
