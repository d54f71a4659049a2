"""Which values mean black and white: decided per sample type, from all images of a set."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecli.config import ModelConfig
from vaecli.errors import DataError

SampleType = Literal["1-bit", "8-bit", "16-bit", "integer", "float"]
"""`integer` is any other size or sign: read as 8 or 16 bits, depending on the maximum."""
Range = tuple[float, float]
"""The values that mean black and white."""
Ranges = Mapping[SampleType, Range]
MaxValue = float | Literal["auto", "full"]

FULL: Ranges = {"1-bit": (0, 1), "8-bit": (0, 255), "16-bit": (0, 65535)}
"""Ranges of the types that have one."""
DARK = 8
"""If the highest value is below the range divided by this, white is not the type's maximum."""
MAX_CLIPPED = 0.01
"""Largest share of values outside the range; more means that the range is wrong."""
OVERSHOOT = 0.25
"""Floats may lie outside by this share of the range: interpolation overshoots."""
_FLOAT_RANGES: tuple[Range, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


@dataclass(frozen=True)
class Levels:
    """The values of one sample type in a set, and what they mean.

    Attributes:
        samples: type of the samples.
        lowest: smallest value found.
        highest: largest value found.
        range: values that mean black and white.
        values: number of values.
        clipped: how many of them lie outside `range`, by more than rounding.
        whole: whether all are whole numbers.
    """

    samples: SampleType
    lowest: float
    highest: float
    range: Range
    values: int
    clipped: int = 0
    whole: bool = True

    @classmethod
    def of(cls, samples: SampleType, array: NDArray[Any], range: Range) -> Levels:
        """The levels of an array, read with `range`."""
        lowest, highest = float(array.min()), float(array.max())
        black, white = range
        slack = (white - black) / 510 if samples == "float" else 0.0  # rounds to the end itself
        clipped = 0
        if highest > white + slack:
            clipped += int(np.count_nonzero(array > white + slack))
        if lowest < black - slack:
            clipped += int(np.count_nonzero(array < black - slack))
        whole = samples != "float" or bool((array == np.rint(array)).all())
        return cls(samples, lowest, highest, range, array.size, clipped, whole)

    def joined(self, other: Levels) -> Levels:
        """Merge with levels of the same type and range."""
        return replace(
            self,
            lowest=min(self.lowest, other.lowest),
            highest=max(self.highest, other.highest),
            values=self.values + other.values,
            clipped=self.clipped + other.clipped,
            whole=self.whole and other.whole,
        )

    @property
    def dark(self) -> bool:
        """Whether no value reaches an eighth of the range."""
        black, white = self.range
        return self.highest - black < (white - black) / DARK

    @property
    def full(self) -> Range:
        """The full range of the sample type."""
        return full_range(self.samples, self.highest) or self.range

    def describe(self) -> str:
        """For a table: `16-bit values from 200 to 3,800, 4,095 is white`."""
        black, white = self.range
        ends = f"{_text(white)} is white"
        if black:
            ends = f"{_text(black)} is black, {ends}"
        return f"{self.samples} values from {_text(self.lowest)} to {_text(self.highest)}, {ends}"

    def notes(self) -> Iterator[str]:
        """Notes for the user."""
        black, white = self.range
        if self.samples == "float":
            yield (
                f"floats from {_text(self.lowest)} to {_text(self.highest)}: {_text(black)} counts"
                f" as black and {_text(white)} as white, rounded to 256 levels"
            )
        elif self.range != self.full:
            yield (
                f"the highest of its {self.samples} values is {_text(self.highest)}:"
                f" {_text(white)} counts as white, not {_text(self.full[1])};"
                " --max-value decides otherwise"
            )
        elif self.samples == "integer":
            yield f"whole numbers up to {_text(self.highest)}: {_text(white)} counts as white"
        if self.dark:
            yield (
                f"the highest value is {_text(self.highest)} and {_text(white)} counts as white:"
                " the images are nearly black"
            )
        if self.clipped:
            yield (
                f"{self.clipped:,} of {self.values:,} values lie outside {_text(black)} to"
                f" {_text(white)} and are clipped"
            )


def joined(all_levels: Iterable[Levels]) -> list[Levels]:
    """Merge levels of the same type and range, in order of appearance."""
    together: dict[tuple[SampleType, Range], Levels] = {}
    for levels in all_levels:
        key = levels.samples, levels.range
        together[key] = together[key].joined(levels) if key in together else levels
    return list(together.values())


def full_range(samples: SampleType, highest: float) -> Range | None:
    """The full range of a type, which for integers depends on the maximum; None for floats."""
    if samples == "float":
        return None
    return FULL.get(samples) or FULL["8-bit" if highest <= 255 else "16-bit"]


def asked(max_value: MaxValue) -> dict[SampleType, Range]:
    """The ranges that `--max-value` decides before any value is seen."""
    if max_value == "auto":
        return {}
    if max_value == "full":
        return dict(FULL)
    white = float(max_value)
    whites: dict[SampleType, Range] = {"integer": (0, white), "float": (0.0, white)}
    # a value larger than a type can hold says nothing about that type
    return {**FULL, **whites, **{k: (0, white) for k in _SIZED if white <= FULL[k][1]}}


_SIZED: tuple[SampleType, ...] = ("8-bit", "16-bit")


def decide(
    all_levels: Iterable[Levels], max_value: MaxValue, known: Ranges
) -> dict[SampleType, Range]:
    """Decide what counts as black and white in a set.

    White is the end of the type's range; but if the highest value of all images is below an eighth
    of it, white is the next 2^k - 1.

    Args:
        all_levels: the levels of all images.
        max_value: `--max-value`.
        known: ranges that are already decided.

    Raises:
        ValueError: the values fit no range.
    """
    by_type: dict[SampleType, Levels] = {}
    for levels in all_levels:
        name = levels.samples
        by_type[name] = by_type[name].joined(levels) if name in by_type else levels
    settled = {**asked(max_value), **known}
    return {
        name: settled.get(name) or _own_range(levels, max_value) for name, levels in by_type.items()
    }


def _own_range(levels: Levels, max_value: MaxValue) -> Range:
    low, high = levels.lowest, levels.highest
    full = _float_range(levels) if levels.samples == "float" else levels.full
    if levels.samples == "integer" and not (low >= 0 and high <= full[1]):
        raise ValueError(
            f"its whole numbers run from {_text(low)} to {_text(high)}, not from 0 to 65,535"
        )
    black, white = full
    if max_value == "full" or black or white == 1 or not 0 < high < white / DARK:
        return full
    if not levels.whole:
        raise ValueError(
            f"its floats run from {_text(low)} to {_text(high)}: not from 0 to 1, -1 to 1 or 0 to"
            " 255"
        )
    return 0, 2 ** int(high).bit_length() - 1


def _float_range(levels: Levels) -> Range:
    for black, white in _FLOAT_RANGES:
        slack = OVERSHOOT * (white - black)
        if black - slack <= levels.lowest and levels.highest <= white + slack:
            return black, white
    raise ValueError(
        f"its floats run from {_text(levels.lowest)} to {_text(levels.highest)}: not from 0 to 1,"
        " -1 to 1 or 0 to 255"
    )


def as_settings(all_levels: Iterable[Levels]) -> dict[str, Any]:
    """The ranges as fields of `ModelConfig`."""
    ranges = {levels.samples: levels.range for levels in all_levels}
    if "1-bit" in ranges:  # which have no levels between, and are read as 0 and 255
        ranges.setdefault("8-bit", FULL["8-bit"])
    whites = {
        f"white_{name}": int(ranges[samples][1])
        for samples, name in _FIELDS.items()
        if samples in ranges
    }
    return {**whites, **({"float_range": ranges["float"]} if "float" in ranges else {})}


def of_model(config: ModelConfig) -> dict[SampleType, Range]:
    """The ranges a model was trained with; the full ones if its configuration has none."""
    whites = {samples: getattr(config, f"white_{name}") for samples, name in _FIELDS.items()}
    ranges: dict[SampleType, Range] = {k: (0, white) for k, white in whites.items() if white}
    if config.float_range is not None:
        ranges["float"] = config.float_range
    return ranges or dict(FULL)


_FIELDS: dict[SampleType, str] = {"8-bit": "8", "16-bit": "16", "integer": "integer"}


def refuse(all_levels: Iterable[Levels], where: str, *, black_too: bool) -> None:
    """DataError if too many values lie outside the range, or all images are black.

    Args:
        all_levels: the levels of all images.
        where: start of the message.
        black_too: whether to refuse images that are all black.
    """
    all_levels = list(all_levels)
    for levels in all_levels:
        if levels.clipped > MAX_CLIPPED * levels.values:
            black, white = map(_text, levels.range)
            raise DataError(
                f"{where}: {100 * levels.clipped / levels.values:.1f} % of its {levels.samples}"
                f" values lie outside {black} to {white}: they run from {_text(levels.lowest)} to"
                f" {_text(levels.highest)}",
                "Give images of that range, or say what counts as white with train --max-value.",
            )
    if black_too and all_levels and all(levels.highest <= levels.range[0] for levels in all_levels):
        highest = _text(max(levels.highest for levels in all_levels))
        raise DataError(
            f"{where}: its highest value is {highest}: every image is black",
            "Check how the images were saved.",
        )


def to_bytes(array: NDArray[Any], range: Range) -> NDArray[np.uint8]:
    """Scale values from `range` to 0..255, round to the nearest and clip."""
    black, white = range
    if array.dtype == np.uint8:
        return array if white == 255 else _table(white, 256).take(array)
    if array.dtype == np.uint16:
        return _table(white, 65536).take(array)
    # the division by 255 last: a level v / 255 comes back as v
    scaled = (array.astype(np.float64) - black) * (255 / (white - black))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _table(white: float, count: int) -> NDArray[np.uint8]:
    values = np.arange(count) * 255 / white + 0.5
    return values.clip(0, 255).astype(np.uint8)


def _text(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
