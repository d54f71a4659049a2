"""The Typer app: five commands, and the root with --version and help."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from vaecli._version import __version__
from vaecli.cli import options
from vaecli.cli.config_file import SHORT_VARIABLES
from vaecli.cli.plain_values import plain
from vaecli.errors import ExitCode, UsageError
from vaecli.terminal.terminal import Terminal

# the base of every error Typer raises about a command line; it has no public name
_CommandLineError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_MARKUP: Literal["rich"] = "rich"


class _Command(TyperCommand):
    """A command that reads plain values itself, and whose own --help has a panel."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain(super().get_params(ctx))

    def get_help_option(self, ctx: Any) -> Any:
        found = super().get_help_option(ctx)
        if found is not None:
            found.rich_help_panel = options.OUTPUT
        return found


class _Commands(TyperGroup):
    """The commands by name, each imported and made when it is asked for."""

    def get_params(self, ctx: Any) -> list[Any]:
        return plain(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # for a name that is none, all of them: Typer suggests the nearest
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.commands[name] = typer.main.get_command(_alone(name))
        return self.commands.get(cmd_name)


def _alone(name: str) -> typer.Typer:
    """A command as an app of its own."""
    function = getattr(importlib.import_module(f"vaecli.cli.{name}"), _COMMANDS[name])
    variables = (
        f"Each option is also a variable, as VAECLI_{name.upper()}_SEED; for all commands:"
        f" {', '.join(SHORT_VARIABLES.values())}."
    )
    alone = typer.Typer(add_completion=False, rich_markup_mode=_MARKUP)
    alone.command(name, cls=_Command, epilog=variables)(options.grouped(function))
    return alone


_COMMANDS = {
    "train": "train",
    "eval": "evaluate",
    "reconstruct": "reconstruct",
    "sample": "sample",
    "export": "export",
}
"""Each command is a module of this folder; the function in it."""
app = typer.Typer(
    name="vaecli",
    cls=_Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=_MARKUP,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "VAECLI",
        "max_content_width": 100,
    },
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version; with -v also torch and device.",
            allow_from_autoenv=False,
            show_envvar=False,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="With --version: also torch and device.",
            allow_from_autoenv=False,
            show_envvar=False,
        ),
    ] = False,
) -> None:
    """Train, judge and ship variational autoencoders.

    [bold]Examples[/bold]
      vaecli train --epochs 20
      vaecli eval
      vaecli reconstruct digit.png
      vaecli sample -n 64
      vaecli export
    """
    if version:
        print(_versions() if verbose else f"vaecli {__version__}")
        raise typer.Exit()
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(ExitCode.USAGE)


def invoke(arguments: list[str], terminal: Terminal) -> object:
    """Run one command line; returns its exit code, None for 0.

    Raises:
        UsageError: Typer refuses it.
    """
    try:
        return app(arguments, prog_name="vaecli", standalone_mode=False, obj=terminal)
    except _CommandLineError as error:
        message = error.format_message().replace(": Value error,", ":")  # type: ignore[attr-defined]
        raise UsageError(message.rstrip("."), "See `vaecli --help`.") from error


def _versions() -> str:
    import platform

    import torch

    device = "mps" if torch.backends.mps.is_available() else "cpu"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return (
        f"vaecli {__version__}\npython {platform.python_version()}\ntorch {torch.__version__}\n"
        f"device {device}\nthreads {torch.get_num_threads()}"
    )
