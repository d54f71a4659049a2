"""docs/own-images.md: every command on the page works as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY, Vaecli
from vaecli.errors import ExitCode

PAGE = (REPOSITORY / "docs/own-images.md").read_text()
BLOCK = re.compile(r"(<!-- not yet: [^>]+ -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def test_every_command_works(vaecli: Vaecli) -> None:
    """In the order of the page; what is marked "not yet" must still be refused."""
    rng = np.random.default_rng(0)
    for folder, count in (("photos/sea", 12), ("photos/wood", 12), ("suspects", 5)):
        Path(folder).mkdir(parents=True)
        for index in range(count):
            size = (70 + index, 80, 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(
                f"{folder}/{index}.jpg"
            )
    np.save("images.npy", rng.integers(0, 256, (30, 8, 8), dtype=np.uint8))
    Path("vaecli.toml").write_text('data-dir = "cache"\n[train]\nepochs = 1\nhidden = [8]\n')
    ran = 0
    for not_yet, language, text in BLOCK.findall(PAGE):
        if not_yet and language == "sh":
            first = shlex.split(text.splitlines()[0])[1:]
            assert vaecli(*first).code == ExitCode.USAGE, f"remove the mark: {text}"
        elif language == "sh":
            for line in text.splitlines():
                run(vaecli, line)
                ran += 1
        elif not not_yet:
            pytest.importorskip("sklearn")
            exec(compile(text, "docs/own-images.md", "exec"), {})
    assert ran >= 5


def run(vaecli: Vaecli, line: str) -> None:
    if line.startswith("vaecli "):
        outcome = vaecli(*shlex.split(line)[1:])
        assert outcome.code == 0, f"{line}: {outcome.err}"
    else:
        subprocess.run(line, shell=True, check=True)


def test_the_endings_are_those_that_are_looked_for() -> None:
    from vaecli.images import SUFFIXES

    match = re.search(r"Files that end in (.*?) are taken", PAGE, re.DOTALL)
    assert match is not None
    assert {f".{word}" for word in re.findall(r"\b(?!or\b)\w+", match[1])} == SUFFIXES
