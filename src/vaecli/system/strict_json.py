"""Canonical JSON for writing, and a strict parser for reading."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from vaecli.system.size_limits import MAX_JSON_DEPTH


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON with one spelling for equal values: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_json(text: bytes) -> Any:
    """Parse JSON strictly: UTF-8, no duplicate keys, no NaN or infinity, no absurd depth.

    Raises:
        ValueError: the text breaks one of these rules.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise ValueError("a key appears twice in one object")
        return result

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits[:20]} is out of range")
        return value

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_float=finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """ValueError if lists and objects are nested too deeply to be printed."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
