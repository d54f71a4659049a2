"""The documentation says what is true: generated pages, the tree, every option."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_the_cli_page_is_fresh() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs/cli_page.py"))["page"]
    assert (REPOSITORY / "docs/cli.md").read_text() == page(), "run python docs/cli_page.py"


def test_the_tree_in_the_readme_is_the_one_on_disk() -> None:
    block = README.split("<!-- tree -->")[1].split("```")[1]
    listed = set()
    folder = ""
    for line in block.splitlines():
        if match := re.match(r"^(src/\S+/)", line):
            folder = match[1]
        elif match := re.match(r"^  (\S+/)$", line.split("  #")[0].rstrip()):
            folder = "src/vaecli/" + match[1]
        elif match := re.match(r"^(  |    )(\S+)  +\S", line):
            base = "src/vaecli/" if match[1] == "  " else folder
            listed.add(base + match[2])
    tracked = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "src/vaecli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert listed == tracked


def test_every_relative_link_leads_somewhere() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_local_path_is_committed() -> None:
    listing = subprocess.run(
        ["git", "grep", "-lE", r"/(root|home/[a-z]+|work)/"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listing.stdout in ("", "tests/test_docs.py\n")


def test_the_python_example_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    example = README.split("```python\n")[1].split("```")[0]
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "runs/api/model.safetensors").is_file()
