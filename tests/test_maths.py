"""The maths beside the code: examples run, and docs/maths.md points at functions that exist."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import vaecli
from conftest import REPOSITORY
from vaecli.model import bounds, distribution, likelihoods, numpy_learned_prior, numpy_prior, prior

MODULES = [distribution, likelihoods, bounds, prior, numpy_prior, numpy_learned_prior]


def rows() -> Iterator[dict[str, str]]:
    """Each row of each table in docs/maths.md, as its cells by their heading."""
    head: list[str] | None = None
    for line in (REPOSITORY / "docs/maths.md").read_text().splitlines():
        if not line.startswith("|"):
            head = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if head is None:
            head = cells
        elif not set(line) <= set("|- "):
            yield dict(zip(head, cells, strict=True))


ROWS = list(rows())


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_run(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_an_example(module: ModuleType) -> None:
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            assert ">>> " in (inspect.getdoc(value) or ""), name


def test_no_cell_about_the_code_or_the_source_is_empty() -> None:
    checked = [
        (row, heading)
        for row in ROWS
        for heading in ("in the code", "function", "source")
        if heading in row
    ]
    assert len(checked) > 30
    for row, heading in checked:
        assert row[heading], row


def test_every_function_in_a_table_exists() -> None:
    names = [name for row in ROWS for name in re.findall(r"`([\w.]+)`", row.get("function", ""))]
    assert len(names) > 10
    for name in names:
        value, parts = vaecli, name.split(".")
        while importlib.util.find_spec(f"{value.__name__}.{parts[0]}"):
            value = importlib.import_module(f"{value.__name__}.{parts.pop(0)}")
            if not hasattr(value, "__path__"):
                break
        found: object = value
        for part in parts:
            fields = getattr(found, "__dataclass_fields__", {})
            found = fields[part] if part in fields else getattr(found, part)
