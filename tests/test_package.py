"""What is published: the wheel and the source distribution hold what they need and no more."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from conftest import REPOSITORY
from vaecli import __version__

pytest.importorskip("hatchling", reason="needs the build backend: the test group has it")
pytest.importorskip("hatch_fancy_pypi_readme", reason="needs it as well")

TOP = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built without the network."""
    if not (REPOSITORY / "src").is_dir():
        pytest.skip("needs the source: these tests run against an installed wheel")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


def tracked() -> set[str]:
    """What git knows of, or skip."""
    listing = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("needs a git checkout")
    return set(listing.stdout.splitlines())


def test_the_wheel_is_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"vaecli-{__version__}.dist-info"
    expected = {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    assert "vaecli/py.typed" in expected
    beside = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert names == expected | {f"{info}/{name}" for name in beside}


def test_the_source_distribution_can_be_tested_and_has_no_results(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    wanted = {
        name
        for name in tracked()
        if name.startswith(("src/", "tests/", "docs/", "benchmarks/"))
        and not name.startswith(("tests/logs/", "benchmarks/results/"))
    }
    assert names == wanted | TOP | {"check", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert sdist.stat().st_size < 6_000_000  # 1.3 million are the model digits, 2.7 the pictures


def test_the_page_on_the_index_shows_its_pictures(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    metadata = zipfile.ZipFile(wheel).read(f"vaecli-{__version__}.dist-info/METADATA").decode()
    page = email.message_from_string(metadata).get_payload()
    assert isinstance(page, str)
    outside = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)]+)\)", outside)
    assert len(targets) > 10
    for target in targets:
        assert target.startswith("https://"), target
        ours = re.match(r"https://[\w./]*?vaecli/vaecli/(?:blob/)?main/([^#]+)", target)
        assert ours is None or (REPOSITORY / ours[1]).exists(), target
