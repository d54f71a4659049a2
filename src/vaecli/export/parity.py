"""Measures how far an exported part differs from torch, and refuses more than the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from vaecli.errors import VaecliError
from vaecli.export.parts import Part
from vaecli.model.precision import inference

BATCH_SIZES = (1, 3)
"""Parity is measured at both: a batch axis that was frozen in export fails at one of them."""

Runner = Callable[..., Sequence[Tensor]]
"""A part in some runtime: a batch of each input in, the outputs in order."""


@inference()
def difference(part: Part, runner: Runner) -> float:
    """The largest absolute difference from torch over all outputs at both batch sizes."""
    worst = 0.0
    for batch in BATCH_SIZES:
        examples = part.examples(batch)
        wanted = part.module(*examples)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for mine, theirs in zip(wanted, runner(*examples), strict=True):
            if mine.shape != theirs.shape:
                return float("inf")
            worst = max(worst, float((mine - theirs).abs().nan_to_num(float("inf")).max()))
    return worst


def require_parity(part: Part, measured: float, tolerance: float) -> None:
    """Refuse an export whose outputs differ from the model's.

    Raises:
        VaecliError: the difference found is above the tolerance.
    """
    if not measured <= tolerance:
        raise VaecliError(
            f"export of the {part.name}: it differs from torch by {measured:.2e},"
            f" more than the tolerance of {tolerance:.2e}; nothing was written",
            "Raise --tolerance if that is good enough for you.",
        )
