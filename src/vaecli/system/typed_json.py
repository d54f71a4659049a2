"""Dataclasses as JSON, and back: types, choices and limits are checked, unknown keys refused."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from vaecli.system.size_limits import RANGES

LATER = {"left out at its default": True}
"""Of a field that files of earlier versions do not have: JSON without it stays as it was."""


class Checked(Protocol):
    """A dataclass that knows what is wrong with it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, sentence) for everything that is wrong."""


Config = TypeVar("Config", bound=Checked)

_hints = functools.cache(get_type_hints)  # which compiles every annotation, each time


def to_json(config: Checked) -> dict[str, Any]:
    """The configuration as plain JSON values, in field order."""
    return {
        field.name: plain(value)
        for field in fields(config)
        if (value := getattr(config, field.name)) != field.default or field.metadata != LATER
    }


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def from_json(kind: type[Config], data: object, *, where: str) -> Config:
    """Build a configuration from parsed JSON, strictly.

    Raises:
        ValueError: unknown or missing keys, wrong types, values out of range; all of them named.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, not {type(data).__name__}")
    known = {field.name: field for field in fields(kind)}
    wrong = [f"{where}.{key[:80]}: unknown key" for key in data if key not in known]
    wrong += [
        f"{where}.{name}: missing"
        for name, field in known.items()
        if name not in data and field.default is dataclasses.MISSING
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    values = {k: float(v) if _is_float_field(kind, k, v) else v for k, v in values.items()}
    config = kind(**values)
    wrong = [f"{where}.{field}: {sentence}" for field, sentence in config.problems()]
    if wrong:
        raise ValueError("; ".join(wrong))
    return config


def _is_float_field(kind: Any, name: str, value: object) -> bool:
    return _hints(kind)[name] is float and type(value) is int and abs(value) < 2**53


def field_problems(config: Any) -> Iterator[tuple[str, str]]:
    """Types, choices and limits of every field, taken from its annotation and `RANGES`."""
    kind: Any = type(config)
    for name, hint in _hints(kind).items():
        value = getattr(config, name)
        if sentence := value_problem(value, hint, *RANGES.get(name, (-math.inf, math.inf))):
            yield name, sentence


def value_problem(value: object, hint: Any, low: float, high: float) -> str | None:
    """What is wrong with one value, as the end of a sentence; None where nothing is."""
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        return None if value in allowed else f"must be {_one_of(allowed)}, not {value!r:.80}"
    if type(None) in get_args(hint):
        if value is None:
            return None
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is tuple:
        elements = get_args(hint)
        length = None if elements[-1] is Ellipsis else len(elements)
        if not isinstance(value, tuple) or (length is not None and len(value) != length):
            kind = "texts" if elements[0] is str else f"{length or 'whole'} numbers"
            return f"must be a list of {kind}, not {value!r:.80}"
        sentences = (value_problem(item, elements[0], low, high) for item in value)
        return next((sentence for sentence in sentences if sentence), None)
    if type(value) is not hint:
        return f"must be {_TYPE_NAMES[hint]}, not {value!r:.80}"
    unlimited = isinstance(value, float) and math.isinf(high)  # its own check names what it needs
    if isinstance(value, int | float) and not low <= value <= high and not unlimited:
        bound = f"at least {low:,.0f}" if value < low else f"at most {high:,.0f}"
        return f"must be {bound}, not {value:,}" if abs(value) < 1e30 else f"must be {bound}"
    return None


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}


def _one_of(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}" if values[1:] else str(values[0])
