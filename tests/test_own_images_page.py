"""docs/own-images.md: every command on the page works as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY, Vaecli
from pages import blocks
from vaecli.data import formats

PAGE = REPOSITORY / "docs/own-images.md"


def test_every_command_works(vaecli: Vaecli) -> None:
    """As written, in the order of the page."""
    rng = np.random.default_rng(0)
    for folder, count in (("photos/sea", 12), ("photos/wood", 12), ("suspects", 5)):
        Path(folder).mkdir(parents=True)
        for index in range(count):
            size = (70 + index, 80, 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(
                f"{folder}/{index}.jpg"
            )
    np.save("images.npy", rng.integers(0, 256, (30, 8, 8), dtype=np.uint8))
    np.savetxt("digits.csv", rng.integers(0, 256, (30, 64)), "%d", ",")
    shutil.make_archive("photos", "zip", "photos")
    Path("vaecli.toml").write_text('data-dir = "cache"\n[train]\nepochs = 1\nhidden = [8]\n')
    for line in "".join(blocks(PAGE, "sh")).splitlines():
        run(vaecli, line)
    pytest.importorskip("sklearn")
    for text in blocks(PAGE, "python"):
        exec(compile(text, PAGE, "exec"), {})


def run(vaecli: Vaecli, line: str) -> None:
    if line.startswith("vaecli "):
        outcome = vaecli(*shlex.split(line)[1:])
        assert outcome.code == 0, f"{line}: {outcome.err}"
    else:
        subprocess.run(line, shell=True, check=True)


def test_the_endings_are_those_that_are_looked_for() -> None:
    match = re.search(r"Files that end in (.*?) are taken", PAGE.read_text(), re.DOTALL)
    assert match is not None
    always = {suffix for endings in formats.ALWAYS.values() for suffix in endings}
    assert {f".{word}" for word in re.findall(r"\b(?!or\b)\w+", match[1])} == always
    optional = set(re.findall(r"`(\.\w+)`", PAGE.read_text()))
    assert {*formats.AVIF, *formats.HEIC} <= optional
