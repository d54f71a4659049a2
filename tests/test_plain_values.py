"""Values of options are read as Typer reads them, without the library that Typer reads them by."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.core import TyperOption

from test_layers import modules_after
from vaecli.cli import commands
from vaecli.cli.plain_values import plain

GROUP: Any = typer.main.get_command(commands.app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
TEXTS = (
    *("", "0", "1", "-3", "+3", "64", "1.0", "1e-3", "nan", "-inf", "infinity", "1_000", " 5 "),
    *("x", "true", "auto", "full", "48x64", "300,300", "~/a", "~nobody/a", "-", "latest", "\0"),
    *("bernoulli", "Bernoulli", "conv", "dynamic", "cuda:1", "9" * 5000, "٣", "a\udcff"),
)


def outcome(parameter: Any, value: Any) -> tuple[str, str]:
    """What a parameter makes of a value, with its type; or how it refuses it."""
    context = typer.Context(COMMANDS["train"], info_name="train")
    try:
        result = parameter.process_value(context, value)
    except Exception as error:
        return type(error).__name__, str(error)
    return type(result).__name__, repr(result)


@pytest.mark.skipif(
    not hasattr(COMMANDS["train"].params[0], "type_descriptor"), reason="of an older Typer"
)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_value_is_what_typer_makes_of_it(command: str) -> None:
    fast = [*typer.main.get_command(commands._alone(command)).params]
    plain(fast)
    slow = [*typer.main.get_command(commands._alone(command)).params]
    compared = 0
    for quick, thorough in zip(fast, slow, strict=True):
        if quick.callback is not None:  # reads a file
            continue
        many = quick.nargs == -1 or quick.multiple
        for text in (None, True, False, 3, 0.5, *TEXTS):
            for value in [text, (text, text)] if many else [text]:
                assert outcome(quick, value) == outcome(thorough, value), (quick.name, value)
                compared += isinstance(quick, TyperOption)
    assert compared > 300


@pytest.mark.parametrize(
    "words", [["train", "--help"], ["eval", "--importance-samples", "0", "-m", "a", "--limit", "3"]]
)
def test_a_command_line_needs_no_pydantic(words: list[str]) -> None:
    assert "pydantic" not in modules_after(f"from vaecli.cli.app import run; run({words})")
