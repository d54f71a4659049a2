"""Every command that README.md and docs/ show is one that its program takes.

Each line of each shell block, and each command in running text, is handed to the program that
reads it, and stopped where the work would begin: vaecli at the loading of a model or of images,
torchrun after its own options, pytest and the scripts by the words they must know.  A block that
this cannot check says why in the line above it: `<!-- not run: needs the network -->`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import typer

from conftest import REPOSITORY, Vaecli
from pages import PAGES, blocks, other_blocks, prose
from vaecli.cli import commands as cli
from vaecli.data import catalogue
from vaecli.data.dataset import Dataset, Images
from vaecli.data.own import hub_data
from vaecli.errors import ModelError
from vaecli.model import precision
from vaecli.runs import directory, load
from vaecli.system import extras
from vaecli.training import continuing, planning

PROGRAMS = ("vaecli", "python", "pytest", "torchrun")
FAMILIAR = {"cat", "file", "head", "sort"}
"""Programs of every system, which a line may use beside ours."""
ANYONES = {
    "photos",
    "photos/",
    "elsewhere/photos",
    "images.npy",
    "shapes.npz",
    "photos.zip",
    "digits.csv",
    "FOLDER",
}
"""What the pages call the reader's own images."""
RUN_BY_CI = {
    (REPOSITORY / "README.md")
    .read_text()
    .split("<!-- test-command -->\n```sh\n")[1]
    .split("```")[0]
}
REACHED = "stopped by the test"


def lines(page: Path) -> Iterator[str]:
    """Every command line of a page, of its blocks and of its text."""
    for text in blocks(page, "sh"):
        if text not in RUN_BY_CI:
            yield from text.replace("\\\n", " ").splitlines()
    if page.name == "cli.md":  # the examples in the help
        for text in blocks(page, "text"):
            yield from re.findall(r"^ +(vaecli [a-z].*?)$", text, re.MULTILINE)
    starts = "|".join(PROGRAMS)
    yield from re.findall(rf"`((?:[A-Z_]+=\S+ |nohup )?(?:{starts}) [^`]+)`", prose(page))


def commands(line: str) -> Iterator[list[str]]:
    """The words of each program a line starts, without redirections and settings."""
    words = shlex.shlex(line.replace("…", ""), posix=True, punctuation_chars="();<>|&")
    words.whitespace_split = True
    command: list[str] = []
    into_a_file = False
    for word in [*words, ";"]:
        if set(word) <= set("();<>|&"):
            into_a_file = word in (">", ">>", "<")
            if not into_a_file:
                yield command
                command = []
        elif not into_a_file and (command or not re.match(r"\w+=|nohup$|srun$", word)):
            command.append(word)


def mistake(words: list[str], vaecli: Vaecli) -> str | None:
    """Why a command would not work, or None."""
    program, *arguments = (re.sub(r"^[KN]$", "1", word) for word in words)
    if program == "vaecli":
        return mistake_of_vaecli(arguments, vaecli)
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(arguments)
        assert (parsed.module, parsed.training_script) == (True, "vaecli")
        return mistake_of_vaecli(parsed.training_script_args, vaecli)
    if program == "python":
        return mistake_of_a_script(*arguments)
    if program == "pytest":
        return mistake_of_pytest(arguments)
    return None if program in FAMILIAR else f"{program} cannot be checked: mark its block"


def mistake_of_vaecli(arguments: list[str], vaecli: Vaecli) -> str | None:
    if arguments[0].startswith("-"):  # --install-completion would change this machine
        known = {name for option in typer.main.get_command(cli.app).params for name in option.opts}
        return None if arguments[0] in {*known, "--help"} else "no such option"
    outcome = vaecli(*arguments, *(["--dry-run"] if arguments[0] == "train" else []))
    return None if outcome.code == 0 or REACHED in outcome.err else outcome.err


def mistake_of_a_script(script: str, *arguments: str) -> str | None:
    """A parser made of the script's own calls of `add_argument` must take its arguments."""
    if (script, arguments[:1]) == ("-m", ("build",)):
        return None
    if not (REPOSITORY / script).is_file():
        return "no such script"
    parser = argparse.ArgumentParser()
    for node in ast.walk(ast.parse((REPOSITORY / script).read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            how = {word.arg: word.value for word in node.keywords}
            shared = {"required", "nargs", "action"} & set(how)
            names = [ast.literal_eval(name) for name in node.args]
            parser.add_argument(*names, **{str(k): ast.literal_eval(how[k]) for k in shared})
    try:
        if parser._actions[1:]:
            parser.parse_args(arguments)
    except SystemExit:
        return parser.format_usage()
    return None


def mistake_of_pytest(arguments: list[str]) -> str | None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", default="")
    parser.add_argument("-m", default="")
    parser.add_argument("-p", type=importlib.import_module)
    parser.add_argument("path", nargs="?", type=lambda path: (REPOSITORY / path).read_text())
    given = parser.parse_args(arguments)
    if given.path is None:
        return None if given.p else "no tests named"
    found = re.search(rf"def test_\w*{given.k}", given.path) and f"mark.{given.m}" in given.path
    return None if found else "no such tests"


def small(name: str, *_: Any) -> Dataset:
    """What stands for any set: four images of its shape, of two classes."""
    if hub_data.is_address(name):
        name = hub_data.name_of(name)
    assert name in (catalogue.AUTO, *catalogue.NAMES, *ANYONES), f"--data {name}"
    shape = (3, 32, 32) if name in {"cifar10", *ANYONES} else (1, 28, 28)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    images = Images(pixels, np.arange(4) % 2)
    return Dataset(name, images, images)


def stop(*_: object, **__: object) -> NoReturn:
    raise ModelError(REACHED, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_its_program_takes(
    page: Path, vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_model", stop)
    monkeypatch.setattr(planning, "load_model", stop)
    monkeypatch.setattr(directory, "open_run", stop)
    monkeypatch.setattr(continuing, "latest_unfinished", stop)
    monkeypatch.setattr(catalogue, "load", small)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)  # on any machine
    monkeypatch.setattr(extras, "require", lambda *_: None)  # installed or not
    for line in lines(page):
        for words in filter(None, commands(line)):
            assert (why := mistake(words, vaecli)) is None, f"{line}: {why}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_only_where_they_are_checked(page: Path) -> None:
    """Not in a block of another kind, nor in one made by indentation."""
    starts = rf"^ *(?:\$ )?(?:{'|'.join(PROGRAMS)}|pip|pipx|uv|git) [^#\n]*"
    if page.name != "cli.md":
        for text in other_blocks(page, "sh"):
            assert re.search(starts, text, re.MULTILINE) is None, f"not a block of sh: {text}"
    assert re.search(r"\n\n    \S.*", prose(page)) is None, "an indented block: use fences"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_are_python(page: Path) -> None:
    for text in blocks(page, "py", "python"):
        ast.parse(text)
