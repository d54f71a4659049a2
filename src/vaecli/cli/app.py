"""The `vaecli` command: five commands behind one exception boundary."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer
from typer.core import TyperCommand

from vaecli._version import __version__
from vaecli.cli import options
from vaecli.cli.config_file import SHORT_VARIABLES
from vaecli.cli.eval import evaluate
from vaecli.cli.export import export
from vaecli.cli.reconstruct import reconstruct
from vaecli.cli.sample import sample
from vaecli.cli.train import train
from vaecli.errors import (
    EnvironmentFailure,
    ExitCode,
    UsageError,
    VaecliError,
    is_out_of_memory,
    on_gpu,
)
from vaecli.system import streams, torchrun
from vaecli.system.signals import stop_flag
from vaecli.terminal.terminal import Terminal

# the base of every error Typer raises about a command line; it has no public name
_CommandLineError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="vaecli",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "VAECLI",
        "max_content_width": 100,
    },
)


class _Command(TyperCommand):
    """A command whose own --help has a panel, like every other option."""

    def get_help_option(self, ctx):  # type: ignore[no-untyped-def]
        found = super().get_help_option(ctx)
        if found is not None:
            found.rich_help_panel = options.OUTPUT
        return found


_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "eval": evaluate,
    "reconstruct": reconstruct,
    "sample": sample,
    "export": export,
}
for _name, _command in _COMMANDS.items():
    _variables = (
        f"Each option is also a variable, as VAECLI_{_name.upper()}_SEED; for all commands:"
        f" {', '.join(SHORT_VARIABLES.values())}."
    )
    app.command(_name, cls=_Command, epilog=_variables)(options.grouped(_command))


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


def main() -> None:
    """Run the command line and leave with its exit code."""
    streams.install()
    status = run(sys.argv[1:])
    if torchrun.by_torchrun():
        # the threads of a process group can abort an interpreter that is taking itself apart
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run one command line; every failure becomes one paragraph and an exit code."""
    # until a command has parsed its options, only the words themselves tell
    terminal = Terminal(json=_wants_json(arguments), debug="--debug" in arguments)
    terminal.silent = torchrun.rank() > 0 and arguments[:1] == ["train"]
    try:
        status = app(arguments, prog_name="vaecli", standalone_mode=False, obj=terminal)
        if sys.stdout is not None:
            sys.stdout.flush()  # what Typer printed
    except BaseException as error:
        terminal.silent = not getattr(error, "heard", not terminal.silent)
        return _failure(error, terminal, arguments[:1])
    if stop_flag.received is not None:
        return _stopped(terminal)
    return status if isinstance(status, int) else ExitCode.OK


def _wants_json(arguments: list[str]) -> bool:
    variables = (f"VAECLI_{word.upper()}_JSON" for word in arguments[:1])
    return "--json" in arguments or any(os.environ.get(name) for name in variables)


def _failure(error: BaseException, terminal: Terminal, command: list[str]) -> int:
    if _is_broken_pipe(error) or _is_broken_pipe(error.__context__):
        return ExitCode.BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt):
        return _stopped(terminal)
    if stop_flag.received is not None and not isinstance(error, VaecliError):
        return _stopped(terminal)  # what a library made of being interrupted
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.FAILURE
    if terminal.debug:
        traceback.print_exception(error)
    known = _translate(error, command)
    with contextlib.suppress(OSError):  # stdout fails as well: the exit code still tells
        terminal.error(known)
    return known.exit_code


def _is_broken_pipe(error: BaseException | None) -> bool:
    # Windows says EINVAL of a pipe nobody reads, and of a file it names the file
    told_by_windows = (
        os.name == "nt"
        and isinstance(error, OSError)
        and error.errno == errno.EINVAL
        and error.filename in (None, streams.STDOUT)
    )
    return isinstance(error, BrokenPipeError) or told_by_windows


def _translate(error: BaseException, command: list[str]) -> VaecliError:
    """Any exception that ended `command`, a list of at most one name, as one of ours."""
    if isinstance(error, VaecliError):
        return error
    if isinstance(error, _CommandLineError):
        message = error.format_message()  # type: ignore[attr-defined]
        return UsageError(message.rstrip("."), "See `vaecli --help`.")
    if is_out_of_memory(error):
        usual = [_SMALLER[name] for name in command if name in _SMALLER]
        notes = [*getattr(error, "__notes__", usual)]
        if on_gpu(error):
            notes.append("Or use --device cpu.")
            return EnvironmentFailure("out of memory on the GPU", " ".join(notes))
        return EnvironmentFailure("out of memory", " ".join(notes) or "End other programs.")
    if isinstance(error, OSError):
        return _translate_os_error(error)
    return VaecliError(
        f"unexpected {type(error).__name__}: {error}. This is a bug in vaecli {__version__}",
        "Please report it with the traceback that --debug shows.",
    )


_SMALLER = {
    "train": "Use a smaller --batch-size.",
    "eval": "Use a smaller --batch-size.",
    "sample": "Ask for fewer images: --num-samples, --steps.",
    "reconstruct": "Give fewer images at a time.",
}
"""What needs less memory, where whoever raised the error did not know better."""


def _translate_os_error(error: OSError) -> VaecliError:
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.ENOSPC: "Free some space, or write elsewhere with -o.",
        errno.EDQUOT: "Free some space, or write elsewhere with -o.",
        errno.EACCES: "Check the permissions, or write elsewhere with -o.",
        errno.EPERM: "Check the permissions, or write elsewhere with -o.",
        errno.EROFS: "Write elsewhere with -o.",
        errno.EBADF: "Redirect it to a file.",
    }
    hint = remedies.get(error.errno or 0, "Check the path and the disk.")
    notes = getattr(error, "__notes__", [])  # what to do then, where the raiser knew
    return EnvironmentFailure(f"{where}{error.strerror or error}", " ".join([hint, *notes]))


def _stopped(terminal: Terminal) -> int:
    if sys.stderr is not None and not terminal.silent:
        print("vaecli: stopped.", file=sys.stderr)
    return stop_flag.exit_code if stop_flag.received else ExitCode.INTERRUPTED


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
