"""The documentation says what is true: generated pages, the tree, every option."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vaecli
from conftest import REPOSITORY
from pages import PAGES, anchors, blocks, other_blocks, prose
from vaecli.cli import app
from vaecli.system import size_limits

README = (REPOSITORY / "README.md").read_text()


def test_the_cli_page_is_fresh() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs/cli_page.py"))["page"]
    assert (REPOSITORY / "docs/cli.md").read_text() == page(), "run python docs/cli_page.py"


def test_the_tree_in_the_readme_is_the_one_on_disk() -> None:
    """The wings in the README, and every file in docs/architecture.md."""
    package = Path(vaecli.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shown = README.split("<!-- tree -->")[1].split("```")[1]
    top = {f"{path.split('/')[0]}/" if "/" in path else path for path in found}
    assert {line.split()[0] for line in shown.strip().splitlines()[1:]} == top
    page = (REPOSITORY / "docs/architecture.md").read_text()
    listed, wing = set(), ""
    for line in page.split("<!-- tree -->")[1].split("```")[1].strip().splitlines()[1:]:
        name = line.split()[0]
        if name.endswith("/"):
            wing = name
        else:
            listed.add(name if line.startswith("  ") and line[2] != " " else wing + name)
    # the files that make a folder a package are empty, and not worth a line
    empty = {path for path in found if path.endswith("/__init__.py")}
    assert all(not (package / path).read_text() for path in empty)
    assert listed == found - empty


def test_the_readme_is_short_and_in_the_order_of_a_newcomer() -> None:
    assert len(README.splitlines()) <= 120
    parts = (
        *("![Training", "vaecli train --epochs 20", "- The numbers", "\n## Install\n"),
        *("\n## Your own photos\n", "\n## Beside others\n", "\n## Numbers\n", "(docs/cli.md)"),
    )
    places = [README.index(part) for part in parts]
    assert places == sorted(places)
    assert README.split("\n## Install\n")[0].count("\n- ") == 5  # what is different


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"^\[.+?\]: *(\S+)", text, re.M)
    for target in targets:
        if not re.match(r"https?:|mailto:", target):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_index() -> None:
    index = REPOSITORY / "docs/index.md"
    listed = set("\n".join(other_blocks(index, "sh")).splitlines())
    assert {page.stem for page in PAGES if page.parent == index.parent} <= {"index", *listed}


def test_every_picture_is_shown() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for picture in (REPOSITORY / "docs/images").iterdir():
        assert f"images/{picture.name})" in text, picture.name


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


PICTURES = (REPOSITORY / "docs/pictures.md").read_text()
LIMIT_ROW = re.compile(r"^\| `(MAX_\w+)`.*\| ([\d,]+) \|$", re.MULTILINE)
COMMANDS = "".join(blocks(REPOSITORY / "docs/pictures.md", "sh")).splitlines()


@pytest.mark.timeout(600)
def test_the_commands_behind_the_pictures_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path, real_figures: None
) -> None:
    """As written, on a small set and for two epochs; each makes the picture that is shown."""
    pytest.importorskip("pyte", reason="needs pyte, a terminal emulator: the test group has it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_TRAIN_EPOCHS", "2")
    monkeypatch.setenv("VAECLI_TRAIN_HIDDEN", "32")
    for line in COMMANDS:
        words = shlex.split(re.sub(r"epoch +\d+/20", "epoch 2/2", line))
        if words[0] == "vaecli":
            assert app.run([*words[1:], "-q"]) == 0, line
        else:
            words[:2] = [sys.executable, str(REPOSITORY / words[1])]
            subprocess.run(words, check=True)
    shown = set(re.findall(r"\(images/([\w.-]+)\)", PICTURES))
    assert {path.name for path in Path("docs/images").iterdir()} == shown
    committed = {path.name for path in (REPOSITORY / "docs/images").iterdir()}
    assert shown <= committed


def test_the_limits_on_the_page_are_those_in_the_code() -> None:
    page = (REPOSITORY / "docs/security.md").read_text()
    listed = {name: int(value.replace(",", "")) for name, value in LIMIT_ROW.findall(page)}
    assert listed == {
        name: value for name, value in vars(size_limits).items() if name[:4] == "MAX_"
    }


def test_the_quickstart_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    """As written, on a small set: typed at a prompt, then as the script it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_TRAIN_EPOCHS", "1")
    monkeypatch.setenv("VAECLI_TRAIN_LIMIT", "200")
    *typed, script = blocks(REPOSITORY / "docs/quickstart.md", "sh")
    for line in "".join(typed).splitlines():
        if "digit.png" in line:
            assert app.run(["sample", "-n", "1", "-o", "digit.png", "-q"]) == 0
        words = shlex.split(line.replace("--epochs 20", ""))
        assert app.run([*words[1:], "-q"]) == 0, line
    # the built-in digits take seconds to make, which another test spends
    script = script.replace("--data digits --epochs 1", "--data mnist")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], check=True, env=os.environ | {"PATH": path}
    )
    assert json.loads(Path("scores.json").read_text())["n_images"] == 130
    assert Path("again.png").read_bytes().startswith(b"\x89PNG")
