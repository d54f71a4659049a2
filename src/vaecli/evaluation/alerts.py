"""Scores of images, and which scores are so high that an image does not belong.

The comparison with held-out images is a conformal test: it needs no assumption about the model.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecli.data.dataset import Images
from vaecli.data.pixels import Bytes
from vaecli.errors import UsageError
from vaecli.evaluation.evaluate import Evaluation
from vaecli.runs import held_out
from vaecli.runs.held_out import HeldOut
from vaecli.runs.load import LoadedModel

Values = NDArray[np.float64]
LISTED = 10
"""Alerts that are named."""


def p_values(scores: Values, held_out_scores: Values) -> Values:
    """How rare scores as high as these are among held-out images, (M,) in (0, 1].

    ::

        p = (1 + number of held-out images with at least this score) / (n + 1)

    If image and held-out images are exchangeable, p is at most r with a probability of at most r,
    for every r.  A score that is no number counts as the highest.

    Sources: Vovk et al. 2005, Algorithmic Learning in a Random World, section 2.2; for outliers,
    Bates et al. 2023, equation 2, https://arxiv.org/abs/2104.08279

    Args:
        scores: (M,).
        held_out_scores: (n,), rising.

    Example:
        >>> p_values(np.array([0.5, 2.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
        [1.0, 0.75, 0.25]
    """
    scores = np.where(np.isnan(scores), np.inf, scores)
    at_least = len(held_out_scores) - np.searchsorted(held_out_scores, scores, "left")
    return np.asarray((1 + at_least) / (len(held_out_scores) + 1))


def needed(rate: float) -> int:
    """How many held-out images it takes for a p-value as small as `rate`: 1/rate - 1, rounded up.

    Example:
        >>> needed(0.01), needed(0.03)
        (99, 33)
    """
    count = math.ceil(1 / rate) - 1
    return count if 1 / (count + 1) <= rate else count + 1


def threshold(held_out_scores: Values, rate: float) -> float:
    """The score above which p is at most `rate`.

    Example:
        >>> scores = np.arange(99.0)
        >>> threshold(scores, 0.01), p_values(np.array([98.0, 98.1]), scores).tolist()
        (98.0, [0.02, 0.01])
    """
    count = len(held_out_scores)
    allowed = np.count_nonzero(np.arange(1, count + 1) / (count + 1) <= rate)
    return float(held_out_scores[count - allowed])


def complexity(pixels: Bytes) -> Values:
    """How long the PNG file of each image (N, C, H, W) is, in nats: (N,)."""
    lengths = []
    for image in pixels.transpose(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "PNG")
        lengths.append(file.tell())
    return np.array(lengths) * (8 * math.log(2))


def _without_complexity(result: Evaluation, images: Images) -> Values:
    lengths = np.concatenate([complexity(part) for part in images.parts()])
    return np.asarray(result.losses.numpy() - lengths)


def _likelihood(result: Evaluation, images: Images) -> Values:
    assert result.likelihoods is not None
    return np.asarray(result.likelihoods.nll.numpy())


SCORES: Mapping[str, Callable[[Evaluation, Images], Values]] = {
    "loss": lambda result, images: result.losses.numpy(),
    "distortion": lambda result, images: result.distortions.numpy(),
    "complexity": _without_complexity,
    "likelihood": _likelihood,
}
"""Each score: the higher, the stranger the image.  `complexity` is the loss less the length of the
image's PNG file: a model gives simple images a low loss whatever they show (Serrà et al. 2020,
https://arxiv.org/abs/1909.11480).  `likelihood` is -log p(x) as far as K importance samples tell.
(N,) nats."""


@dataclass(frozen=True)
class HeldOutScores:
    """The scores that alerts are compared with.

    Attributes:
        name: of the score.
        rate: share of ordinary images that may raise an alert.
        values: of the n held-out images, (n,), rising.
        importance_samples: K that images are to be evaluated with, or None for no likelihood.
    """

    name: str
    rate: float
    values: Values
    importance_samples: int | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        rate: float,
        name: str,
        binarize: str,
        prior: str | None = None,
        importance_samples: int | None = None,
    ) -> HeldOutScores:
        """Those of a run.

        Args:
            loaded: the run's model.
            rate: share of ordinary images that may raise an alert.
            name: of the score.
            binarize: how the images that are judged are binarized.
            prior: gmm, or None for the model's own.
            importance_samples: K that is asked for; None for that of the held-out images.

        Raises:
            UsageError: the run keeps none, too few for the rate, or of another protocol.
            ModelError: they are damaged.
        """
        if not 0 < rate < 1:
            raise UsageError(
                f"--alert-rate must lie between 0 and 1, not {rate:g}",
                "0.01 lets one ordinary image of a hundred raise an alert.",
            )
        if name not in SCORES:
            raise UsageError(f"--score {name}: not one of {', '.join(SCORES)}")
        known = held_out.read(loaded, "--alert-rate")
        values = known.scores[name]
        if len(values) < needed(rate):
            raise UsageError(
                f"--alert-rate {rate:g}: it needs {needed(rate):,} held-out images, and"
                f" {loaded.path} has {len(values):,}",
                f"Use a rate of at least {1 / (len(values) + 1):.2g}, or {_more(name, known)}.",
            )
        if binarize != known.binarize:
            raise UsageError(
                f"--alert-rate: the held-out images were scored with --binarize {known.binarize},"
                f" not {binarize}",
                "Leave --binarize out.",
            )
        if prior == "gmm":
            raise UsageError(
                "--alert-rate: the held-out images were scored under the model's own prior",
                "Leave --prior out.",
            )
        if name == "likelihood":
            if importance_samples not in (None, known.importance_samples):
                raise UsageError(
                    f"--score likelihood: the held-out images were scored with"
                    f" --importance-samples {known.importance_samples}, not {importance_samples}",
                    "Leave --importance-samples out.",
                )
            importance_samples = known.importance_samples
        return cls(name, rate, values, importance_samples)

    def judge(self, result: Evaluation, images: Images) -> Verdicts:
        """The verdict on each image that was evaluated."""
        scores = SCORES[self.name](result, images)
        p = p_values(scores, self.values)
        limit = threshold(self.values, self.rate)
        return Verdicts(self.name, self.rate, scores, p, limit, len(self.values))


@dataclass(frozen=True)
class Verdicts:
    """Which of N images are alerts, and what says so.

    Attributes:
        score: its name.
        rate: share of ordinary images that may raise an alert.
        scores: (N,).
        p_values: (N,).
        threshold: what the scores of alerts exceed.
        n_held_out: how many images they were compared with.
    """

    score: str
    rate: float
    scores: Values
    p_values: Values
    threshold: float
    n_held_out: int

    @property
    def alerts(self) -> NDArray[np.int64]:
        """Places of the alerts, the strangest first."""
        order = self.scores.argsort(kind="stable")[::-1]
        return order[self.p_values[order] <= self.rate]

    def values(self) -> dict[str, Any]:
        """What is reported."""
        return {
            "score": self.score,
            "alert_rate": self.rate,
            "threshold": self.threshold,
            "n_held_out": self.n_held_out,
            "alerts": len(self.alerts),
        }

    def columns(self) -> dict[str, list[Any]]:
        """What `--per-image` gets."""
        verdicts = ["alert" if p <= self.rate else "ok" for p in self.p_values]
        return {"p_value": self.p_values.tolist(), "verdict": verdicts}

    def protocol(self) -> str:
        """What an alert is, and how many false ones there are, in words."""
        return (
            f" An alert is an image whose {_WORDS[self.score]} exceeds {self.threshold:.4f}, so"
            f" that p = (1 + held-out images with at least as much) / ({self.n_held_out:,} + 1) is"
            f" at most {self.rate:g}. An ordinary image, drawn like the {self.n_held_out:,}"
            f" held-out ones, raises one with a probability of at most {100 * self.rate:g} %."
        )

    def warnings(self, images: Images) -> list[str]:
        """A line for each of the strangest alerts."""
        found = self.alerts
        lines = [
            f"alert: {_name(images, place)}: {_WORDS[self.score]} {self.scores[place]:.2f},"
            f" p = {self.p_values[place]:.2g}"
            for place in found[:LISTED].tolist()
        ]
        if len(found) > LISTED:
            lines.append(f"{len(found) - LISTED:,} more alerts: --per-image lists all")
        return lines


_WORDS = {
    "loss": "loss",
    "distortion": "distortion",
    "complexity": "loss less complexity",
    "likelihood": "nll",
}


def _more(name: str, known: HeldOut) -> str:
    """What gives a score of more held-out images."""
    if len(known.scores[name]) < len(known.scores["loss"]):
        return f"another score: a run keeps the {name} of some held-out images only"
    return "hold out more images in training, with --test-fraction"


def _name(images: Images, place: int) -> str:
    return f"image {place}" if images.paths is None else images.paths[place]
