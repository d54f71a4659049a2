"""held-out.safetensors: how a run's model does on images it was not trained on.

Written when training ends, so that alerts and heat maps need no images of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaecli.errors import ModelError, UsageError
from vaecli.runs import weights
from vaecli.runs.directory import HELD_OUT
from vaecli.system import shell
from vaecli.system.size_limits import MAX_ARRAY_IMAGES

if TYPE_CHECKING:
    from vaecli.runs.load import LoadedModel

SCORES = ("loss", "distortion", "complexity", "likelihood")
"""The scores that are kept of held-out images; see evaluation/alerts.py."""
MAX_SAMPLES = 5000
"""Importance samples of a likelihood that is kept: `eval` draws as many for each image."""


@dataclass(frozen=True)
class Surprise:
    """How surprised the model is at each pixel of held-out images; see evaluation/heatmap.py.

    Attributes:
        mean: (H, W) nats.
        peaks: (M,) how far the surprise of each image exceeds the mean at most, nats, rising.
    """

    mean: NDArray[np.float32]
    peaks: NDArray[np.float32]


@dataclass(frozen=True)
class HeldOut:
    """How a model does on images it was not trained on and nothing was selected on.

    Attributes:
        scores: each of `SCORES` of N images, (N,) float64, rising; the likelihood of fewer.
        importance_samples: K of the likelihood.
        surprise: of their pixels.
        binarize: how the images were binarized.
    """

    scores: Mapping[str, NDArray[np.float64]]
    importance_samples: int
    surprise: Surprise
    binarize: str

    def encode(self, model: weights.Arrays) -> bytes:
        """The bytes of the file.

        Args:
            model: the weights they belong to.
        """
        tensors: weights.Arrays = {f"score.{name}": self.scores[name] for name in SCORES}
        tensors |= {f"surprise.{name}": value for name, value in vars(self.surprise).items()}
        info = {
            "binarize": self.binarize,
            "importance_samples": self.importance_samples,
            "weights": weights.digest(model),
        }
        return weights.encode(tensors, info)


def read(loaded: LoadedModel, purpose: str) -> HeldOut:
    """What the run of a model keeps of its held-out images.

    Args:
        loaded: the model.
        purpose: the option that needs it.

    Raises:
        UsageError: a weights file does not have it, nor does a run of an earlier version.
        ModelError: it is damaged, or of other weights.
    """
    if loaded.run is None:
        raise UsageError(
            f"{purpose}: {loaded.path}: a weights file does not hold the scores of held-out images",
            "Name the run directory with -m.",
        )
    path = loaded.run.path / HELD_OUT
    again = shell.join(["vaecli", "train", "--resume", str(loaded.run.path)])
    try:
        with weights.open_weights(path) as file:
            header = weights.read_header(file)
            tensors = weights.read_tensors(file, header, _expected(loaded, header.shapes))
            return _checked(tensors, header.info, weights.digest(loaded.weights))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{purpose}: {path} is missing: it is written when training ends, and earlier versions"
            " wrote none",
            f"Where the run's images are, `{again}` writes it.",
        ) from None
    except ValueError as error:
        raise ModelError(
            f"{path}: {error}", f"Remove it; where the run's images are, `{again}` writes it again."
        ) from None


def _expected(loaded: LoadedModel, shapes: weights.Shapes) -> weights.Shapes:
    """Types and shapes the tensors must have: the numbers of images are the file's own."""
    size = loaded.config.image_shape[1:]
    counts = {}
    for name in ("score.loss", "score.likelihood", "surprise.peaks"):
        match shapes.get(name):
            case (_, (int(count),)) if 0 < count <= MAX_ARRAY_IMAGES:
                counts[name] = (count,)
            case _:
                raise ValueError(f"{name} is not a list of numbers")
    expected: dict[str, tuple[str, tuple[int, ...]]]
    expected = {
        name: ("float64", counts.get(name, counts["score.loss"]))
        for name in (f"score.{score}" for score in SCORES)
    }
    expected["surprise.mean"] = ("float32", size)
    expected["surprise.peaks"] = ("float32", counts["surprise.peaks"])
    return expected


def _checked(tensors: weights.Arrays, info: dict[str, Any], model: str) -> HeldOut:
    if info.get("weights") != model:
        raise ValueError("it belongs to other weights")
    samples = info.get("importance_samples")
    if type(samples) is not int or not 0 < samples <= MAX_SAMPLES:
        raise ValueError("importance_samples is not a number of samples")
    scores = {name: np.sort(tensors[f"score.{name}"]) for name in SCORES}
    surprise = Surprise(tensors["surprise.mean"], np.sort(tensors["surprise.peaks"]))
    return HeldOut(scores, samples, surprise, str(info.get("binarize")))
