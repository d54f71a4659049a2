"""fault_table.csv names a test for each fault; each exists, and runs unless a reason is given."""

from __future__ import annotations

import ast
import csv
import re
from pathlib import Path

import pytest

from conftest import REPOSITORY

ROWS = list(csv.DictReader((REPOSITORY / "tests/fault_table.csv").read_text().splitlines()))
MAY_NOT_RUN = re.compile(r"skip|xfail|slow|needs_|linux|require_")


def test_the_table_is_well_formed() -> None:
    assert len({(row["fault"], row["test"]) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.keys() == {"fault", "test", "exit", "reason"}
        assert row["fault"]
        assert row["exit"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["fault"])
def test_a_fault_has_a_test_that_runs(row: dict[str, str]) -> None:
    path, _, name = row["test"].partition("::")
    name, _, parameters = name.partition("[")
    source = (REPOSITORY / path).read_text()
    tree = ast.parse(source)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert found, f"{row['test']} does not exist"
    for parameter in parameters.rstrip("]").split("-") if parameters else []:
        assert parameter in source, f"{row['test']}: no such parameter"
    conditions = [ast.unparse(decorator) for decorator in found[0].decorator_list]
    conditions += [ast.unparse(node) for node in ast.walk(found[0]) if isinstance(node, ast.Call)]
    conditions += [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    decisive = [text for text in conditions if MAY_NOT_RUN.search(text)]
    assert not decisive or row["reason"], f"{row['test']} may not run ({decisive}): say why"


def test_every_reliability_test_file_is_in_the_table() -> None:
    named = {Path(row["test"].partition("::")[0]).name for row in ROWS}
    assert {"test_crash.py", "test_resume.py", "test_stopping.py", "test_kills_slow.py"} <= named
    assert {"test_corpus.py", "test_mutated.py", "test_environment.py"} <= named
