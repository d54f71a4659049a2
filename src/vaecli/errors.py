"""The failures a user can meet, each with its exit code and its remedy.

The core raises these; `vaecli.cli.app` is the only place that turns them into text and an exit
status.  A message reads ``what: where: why.``; the hint says what to do next.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
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
    ALERT = 8
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


_REMEDIES = {
    errno.ENOSPC: "Free some space, or write elsewhere with -o.",
    errno.EDQUOT: "Free some space, or write elsewhere with -o.",
    errno.EACCES: "Check the permissions, or write elsewhere with -o.",
    errno.EPERM: "Check the permissions, or write elsewhere with -o.",
    errno.EROFS: "Write elsewhere with -o.",
    errno.EBADF: "Redirect it to a file.",
}
"""What to do when the disk is full, and after other errors of the system."""


def environment_failure(error: BaseException, smaller: str) -> EnvironmentFailure | None:
    """A full disk, a refused permission, too little memory, and the like; None for other errors.

    Notes added to `error` say what to do next, where its raiser knew.

    Args:
        error: any exception.
        smaller: what would need less memory, where no note says so.
    """
    notes = " ".join(getattr(error, "__notes__", []))
    if is_out_of_memory(error):
        hint = notes or smaller
        if _on_gpu(error):
            return EnvironmentFailure(
                "out of memory on the GPU", f"{hint} Or use --device cpu.".lstrip()
            )
        return EnvironmentFailure("out of memory", hint or "End other programs.")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        hint = _REMEDIES.get(error.errno or 0, "Check the path and the disk.")
        return EnvironmentFailure(f"{where}{error.strerror or error}", f"{hint} {notes}".rstrip())
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a GPU ran out of memory; torch says so in several ways."""
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or (
            isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
        )
    )


def _on_gpu(error: BaseException) -> bool:
    """Whether it was a GPU that ran out of memory, not the host."""
    return not isinstance(error, MemoryError) and _HOST_MEMORY not in str(error)


def option_name(field: str) -> str:
    """What a field is called on the command line: `--latent-dim`."""
    return f"--{field.replace('_', '-')}"


def as_options(problems: Iterable[tuple[str, str]]) -> str:
    """What `problems` of a configuration yielded, as one message about options."""
    return "; ".join(f"{option_name(field)} {sentence}" for field, sentence in problems)
