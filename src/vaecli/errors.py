"""The failures a user can meet, each with its exit code and its remedy.

The core raises these; `vaecli.cli.app` is the only place that turns them into text and an exit
status.  A message reads ``what: where: why.``; the hint says what to do next.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of the `vaecli` command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DATA = 3
    MODEL = 4
    ENVIRONMENT = 5
    DIVERGED = 6
    BUSY = 7
    HANGUP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class VaecliError(Exception):
    """A failure without a code of its own, such as an export that failed its check.

    Args:
        message: what failed, where and why, without a final full stop.
        hint: what to do next, as whole sentences; may be empty.
    """

    exit_code = ExitCode.FAILURE
    code = "failure"
    label = "error: "

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VaecliError):
    """Unknown or contradictory options, a bad value, a bad configuration file."""

    exit_code = ExitCode.USAGE
    code = "usage"


class DataError(VaecliError):
    """Input data refused: an unreadable image, an empty folder, a wrong shape."""

    exit_code = ExitCode.DATA
    code = "data"


class ModelError(VaecliError):
    """Model refused: none found, damaged, hostile, of another architecture or a newer format."""

    exit_code = ExitCode.MODEL
    code = "model"


class EnvironmentFailure(VaecliError):
    """The machine refused: disk, permission, network, device, memory, a missing package."""

    exit_code = ExitCode.ENVIRONMENT
    code = "environment"


class DivergedError(VaecliError):
    """The training loss became NaN or infinite; the last good state is kept."""

    exit_code = ExitCode.DIVERGED
    code = "diverged"


class BusyError(VaecliError):
    """The run directory is in use by another process."""

    exit_code = ExitCode.BUSY
    code = "busy"


class StoppedError(VaecliError):
    """Stopped by a signal after the state was saved."""

    code = "stopped"
    label = ""

    def __init__(self, exit_code: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.exit_code = ExitCode(exit_code)


_HOST_MEMORY = "can't allocate memory"
_OUT_OF_MEMORY = _HOST_MEMORY, "out of memory", "STATUS_ALLOC_FAILED"
"""What torch says on a CPU, on CUDA and Metal, and what CUDA's libraries say."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a GPU ran out of memory; torch says so in several ways."""
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or (
            isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
        )
    )


def on_gpu(error: BaseException) -> bool:
    """Whether it was a GPU that ran out of memory, not the host."""
    return not isinstance(error, MemoryError) and _HOST_MEMORY not in str(error)
