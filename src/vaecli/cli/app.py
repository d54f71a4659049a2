"""Runs one command line; the one exception boundary."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from vaecli._version import __version__
from vaecli.errors import ExitCode, VaecliError, environment_failure
from vaecli.system import streams, torchrun
from vaecli.system.signals import stop_flag
from vaecli.terminal.terminal import Terminal


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
        if arguments == ["--version"]:  # Typer takes longer to import than this to answer
            terminal.data(f"vaecli {__version__}")
            return ExitCode.OK
        from vaecli.cli import commands

        status = commands.invoke(arguments, terminal)
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
        import traceback

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


_SMALLER = {
    "train": "Use a smaller --batch-size.",
    "eval": "Use a smaller --batch-size.",
    "sample": "Ask for fewer images: --num-samples, --steps.",
    "reconstruct": "Give fewer images at a time.",
}
"""What needs less memory, unless whoever raised the error knew better."""


def _translate(error: BaseException, command: list[str]) -> VaecliError:
    """Any exception that ended `command`, a list of at most one name, as one of ours."""
    if isinstance(error, VaecliError):
        return error
    smaller = " ".join(_SMALLER[name] for name in command if name in _SMALLER)
    return environment_failure(error, smaller) or VaecliError(
        f"unexpected {type(error).__name__}: {error}. This is a bug in vaecli {__version__}",
        "Please report it with the traceback that --debug shows.",
    )


def _stopped(terminal: Terminal) -> int:
    if sys.stderr is not None and not terminal.silent:
        print("vaecli: stopped.", file=sys.stderr)
    return stop_flag.exit_code if stop_flag.received else ExitCode.INTERRUPTED
