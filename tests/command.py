"""What holds for every vaecli a test starts: no traceback, no bug report, documented exit codes.

conftest.py puts `checked` around `app.run` and `CheckedPopen` in the place of
`subprocess.Popen`, so that no test can call vaecli past them.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import surroundings
from vaecli.errors import ExitCode

VAECLI = (sys.executable, "-m", "vaecli")
REPOSITORY = str(Path(__file__).resolve().parent.parent)
TRACEBACK = "Traceback (most recent call last)"
TORCHRUN = "torch.distributed.run"
_FRAME_OF_TORCHRUN = "torch/distributed/run.py"  # none of vaecli's processes has one
BUG = "This is a bug in vaecli"
_KILLED = 137  # by a test, as by SIGKILL
_expected_bugs: list[str] = []


@contextlib.contextmanager
def bug_expected(words: str) -> Iterator[None]:
    """Let a test that breaks vaecli itself see what becomes of a bug with these words."""
    _expected_bugs.append(words)
    try:
        yield
    finally:
        _expected_bugs.remove(words)


def judge(arguments: Sequence[object], code: int | None, said: str) -> None:
    """Fail on what no command line may do, whatever it is given."""
    what = f"{[str(word) for word in arguments][:12]} ended with {code}:\n{said[-3000:]}"
    assert code is None or code in set(ExitCode), f"undocumented exit code: {what}"
    assert TRACEBACK not in said or "--debug" in arguments, what
    assert BUG not in said or any(words in said for words in _expected_bugs), what


def checked(run: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """`app.run` with these checks, of what it writes to stderr too."""

    def call(arguments: list[str]) -> int:
        if sys.stderr is None:
            code = run(arguments)
            judge(arguments, code, "")
            return code
        listener = _Listener(sys.stderr)
        with contextlib.redirect_stderr(listener):
            code = run(arguments)
        judge(arguments, code, "".join(listener.heard))
        return code

    return call


class _Listener:
    """A stream that passes everything on and remembers what was written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        self.heard.append(text)
        return self._stream.write(text)


def _without_torchruns_own(said: str) -> str:
    """Without the traceback torchrun itself ends with at a failure; those of vaecli stay."""
    before, _, last = said.rpartition(TRACEBACK)
    return before if _FRAME_OF_TORCHRUN in last else said


class CheckedPopen(subprocess.Popen):  # type: ignore[type-arg]
    """A child process, guarded; one that runs vaecli is judged when its output is taken."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options["env"] = surroundings.for_a_child(options.get("env"))
        super().__init__(*arguments, **options)

    def communicate(self, *arguments: Any, **options: Any) -> Any:
        out, err = super().communicate(*arguments, **options)
        words = [self.args] if isinstance(self.args, str | bytes) else list(self.args)  # type: ignore[arg-type]
        # the folder of the clone may be called vaecli too
        if any("vaecli" in str(word).replace(REPOSITORY, "") for word in words):
            said = "".join(
                text.decode("utf-8", "replace") if isinstance(text, bytes) else text or ""
                for text in (out, err)
            )
            # a shell's own code tells nothing, and a signal is a test's own
            alone = words[0] == sys.executable and self.returncode >= 0
            code = self.returncode if alone and self.returncode != _KILLED else None
            judge(words, code, _without_torchruns_own(said) if TORCHRUN in words else said)
        return out, err


def process(
    *arguments: object, shell: str = "{}", python: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own.

    Args:
        arguments: of the command line.
        shell: what bash does with the command, which takes the place of `{}` in it.
        python: options of the interpreter.
        options: of `subprocess.run`.
    """
    command = shlex.join([VAECLI[0], *python, *VAECLI[1:], *map(str, arguments)])
    done = subprocess.run(
        ["bash", "-c", shell.format(command)],
        capture_output=True, encoding="utf-8", errors="replace", check=False, **options,
    )  # fmt: skip
    if shell == "{}":
        judge(arguments, done.returncode, done.stderr)
    return done


def peak_memory() -> Callable[[], int]:
    """Start to watch; the function gives the most bytes in memory at once since then, above now."""

    def high_water() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the mark falls back to what is in use
    before = high_water()
    return lambda: high_water() - before
