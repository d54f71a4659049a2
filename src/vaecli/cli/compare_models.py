"""`vaecli eval -m A -m B`: several models on the same images, under the same protocol."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from vaecli.cli.options import Common
from vaecli.errors import DataError, UsageError

if TYPE_CHECKING:
    from vaecli.config import Binarize
    from vaecli.data.dataset import Images
    from vaecli.data.splits_and_classes import Split
    from vaecli.runs.load import LoadedModel

COLUMNS = (
    *("model", "validation_loss", "loss", "prior", "loss_normal", "distortion", "rate"),
    *("active_units", "bits_per_dim", "nll", "nll_se", "ess"),
)
"""The columns of the table, of those that were measured."""


@dataclass(frozen=True)
class Question:
    """What `eval` was asked: on which images, and how.

    Attributes:
        data: name or path; None for each model's own.
        split: of the data; None for the default.
        limit: only the first so many.
        skip_bad: leave unreadable images out.
        binarize: None for what each model was trained with.
        batch_size: images per pass.
        importance_samples: K, or None for no likelihood estimate.
        seed: None for each run's own.
        prior: normal, or gmm for the mixture of each model; None for each model's own.
    """

    data: str | None
    split: Split | Literal["all"] | None
    limit: int | None
    skip_bad: bool
    binarize: Binarize | None
    batch_size: int
    importance_samples: int | None
    seed: int | None
    prior: Literal["normal", "gmm"] | None


Judge = Callable[["LoadedModel", "Images", str, Question], dict[str, Any]]
"""Called with a model, images, what they are called, and the question: what `eval --json` tells."""


@dataclass(frozen=True)
class _Case:
    """A model, and the images it is to be judged on.

    Attributes:
        loaded: the model.
        name: what it is called in the table.
        images: of its shape.
        source: what they are called.
        digest: SHA-256 of the images.
        measure: what its loss measures.
    """

    loaded: LoadedModel
    name: str
    images: Images
    source: str
    digest: str
    measure: str


def compare(common: Common, specs: Sequence[str], question: Question, judge: Judge) -> None:
    """Judge each model and print one table, or with --json one object with the list `models`.

    Raises:
        UsageError: they would be judged on different images, or their losses measure different
            things.
    """
    cases = _cases(common, specs, question)
    if question.split is None and question.data and len({case.source for case in cases}) > 1:
        # one of them was trained on some of these images
        question = replace(question, split="test")
        cases = _cases(common, specs, question)
    for case in cases:
        _require_alike(cases[0], case, question)
    source = cases[0].source
    values = [
        {"model": case.name, **judge(case.loaded, case.images, source, question)} for case in cases
    ]
    ranked_by = "loss" if question.split == "validation" else None
    # the test split is no reason to choose: it is for the report of what was chosen
    if source.endswith(", test split") and (losses := _validation(common, specs, question, judge)):
        for value, loss in zip(values, losses, strict=True):
            value["validation_loss"] = loss
        ranked_by = "validation_loss"
    if ranked_by is not None:
        values.sort(key=lambda value: (math.isnan(value[ranked_by]), value[ranked_by]))
    _show(common, values, source, ranked_by)


def _cases(common: Common, specs: Sequence[str], question: Question) -> list[_Case]:
    """The models with their images, which are in memory once where they are the same."""
    from vaecli.cli.inputs import load_images, load_model
    from vaecli.evaluation import units
    from vaecli.runs.fitted_prior import require_replaceable
    from vaecli.training import images_for_model

    cases: list[_Case] = []
    for spec in specs:
        loaded = load_model(common, spec)
        require_replaceable(loaded.config, question.prior)
        binarize = images_for_model.binarization(loaded, question.binarize)
        asked = question.data, question.split, question.limit
        images, source = load_images(common, loaded, *asked, binarize, question.skip_bad)
        digest = _digest(images)
        if cases and cases[0].digest == digest:
            images = cases[0].images
        name = spec if loaded.run is None else str(loaded.path)
        measure = units.measure(loaded.config, binarize)
        cases.append(_Case(loaded, name, images, source, digest, measure))
    return cases


def _require_alike(first: _Case, other: _Case, question: Question) -> None:
    names = f"{first.name} and {other.name}"
    if first.digest != other.digest:
        hint = "Name one set for all with --data."
        if question.data is not None:
            hint = "Models that prepare images differently do not compare."
        raise UsageError(
            f"{names}: they would be judged on different images ({first.source}; {other.source})",
            hint,
        )
    if first.measure != other.measure:
        hint = "Losses of different likelihoods do not compare."
        if "binarize" in first.measure and "binarize" in other.measure:
            hint = "Name one protocol for all with --binarize."
        raise UsageError(
            f"{names}: their losses measure different things ({first.measure}; {other.measure})",
            hint,
        )


def _validation(
    common: Common, specs: Sequence[str], question: Question, judge: Judge
) -> list[float] | None:
    """The loss of each model on the validation split; None where they have none in common."""
    asked = replace(question, split="validation", limit=None, importance_samples=None)
    try:
        cases = _cases(common, specs, asked)
    except DataError:
        return None
    if len({case.digest for case in cases}) > 1:
        return None
    return [float(judge(case.loaded, case.images, case.source, asked)["loss"]) for case in cases]


def _digest(images: Images) -> str:
    digest = hashlib.sha256(str(tuple(images.pixels.shape)).encode())
    for part in images.parts():
        digest.update(part.tobytes())
    return digest.hexdigest()


def _show(common: Common, values: list[dict[str, Any]], source: str, ranked_by: str | None) -> None:
    terminal = common.terminal
    if terminal.json:
        terminal.object({"data": source, "ranked_by": ranked_by, "models": values})
    else:
        columns = [name for name in COLUMNS if name in values[0]]
        terminal.table(columns, [[_text(value[name]) for name in columns] for value in values])
    terminal.note(f"judged on {source}: {values[0]['n_images']:,} images")
    if ranked_by is None:
        terminal.note(
            "not ranked: a report, not a selection; choose by a validation split, or by the"
            " held-out loss of `train --patience`"
        )
    else:
        terminal.note(f"ranked by {ranked_by.replace('_', ' ')}, best first")


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
