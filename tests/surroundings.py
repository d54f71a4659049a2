"""What a test finds around it: a home of its own, few variables, default signals, no network.

Nothing of the machine's own reaches a test, and no test leaves anything on the machine; see
guard/sitecustomize.py for how that is watched.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import runpy
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
GUARD = TESTS / "guard"
SOURCE = TESTS.parent / "src"

KEPT = {
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT",
    "VAECLI_TEST_DATA",
}  # fmt: skip
"""Variables of the machine that tests see; besides those of pytest, and of the GPU."""
_KEPT_PREFIXES = ("PYTEST_", "CUDA_", "NVIDIA_")

_OTHERS = {".git", ".venv", ".pytest_cache", ".mypy_cache", ".ruff_cache", "__pycache__"}
"""Folders in the repository that tools keep for themselves."""

_numbers = itertools.count()


def forget_the_machine() -> None:
    """Drop inherited variables, and give children the signal handlers of a shell's."""
    chosen = str(SOURCE) in os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for name in set(os.environ):
        if name.upper() not in KEPT and not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]
    if chosen:  # the source beside these tests in the place of what is installed
        os.environ["PYTHONPATH"] = str(SOURCE)
    # what is imported before the first test has no home
    os.environ.update(_home_variables(Path(os.devnull)))
    # two small test processes share the cores better than one that spins on both
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            # in a background job: still ignored here, but unlike SIG_IGN not inherited
            signal.signal(number, lambda *_: None)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[Path]:
    """Watch this process and its children; `folder` is pytest's own, where all is written."""
    import hypothesis.configuration

    runpy.run_path(str(GUARD / "sitecustomize.py"))  # some systems have one by that name
    folder = folder.resolve()
    common = folder / "surroundings"
    with pytest.MonkeyPatch.context() as patch, home(common, patch):
        hypothesis.configuration.set_hypothesis_home_dir(common / "hypothesis")
        # matplotlib takes seconds to list the fonts of a machine
        patch.setenv("MPLCONFIGDIR", str(common / "matplotlib"))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(common / "inductor"))  # made by torch's import
        patch.setenv("TESTS_GUARD_FOLDERS", str(folder))
        patch.setenv("TESTS_GUARD_LOG", str(common / "guard.log"))
        patch.chdir(common)
        yield common


@contextlib.contextmanager
def home(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty home and an empty place for temporary files, below `folder`."""
    place = folder / f"home-{next(_numbers)}"
    variables = _home_variables(place)
    for name, value in variables.items():
        Path(value).mkdir(parents=True, exist_ok=True)
        patch.setenv(name, value)
    patch.setattr(tempfile, "tempdir", variables["TMPDIR"])
    yield
    shutil.rmtree(place, ignore_errors=True)


def _home_variables(place: Path) -> Mapping[str, str]:
    temporary = place / "tmp"
    return {
        "HOME": str(place),
        "USERPROFILE": str(place),
        "LOCALAPPDATA": str(place / "AppData/Local"),
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
    }


def for_a_child(variables: Mapping[str, str] | None) -> dict[str, str]:
    """`variables` of a child process, by default our own, with what guards it."""
    given = dict(os.environ if variables is None else variables)
    folders = given.get("PYTHONPATH", "").split(os.pathsep)
    given["PYTHONPATH"] = os.pathsep.join(dict.fromkeys((str(GUARD), *filter(None, folders))))
    guards = {name: value for name, value in os.environ.items() if name.startswith("TESTS_GUARD_")}
    return {**given, **guards}


def require_innocence() -> None:
    """Fail the test that did what the guard refuses."""
    log = Path(os.environ["TESTS_GUARD_LOG"])
    if log.exists():
        deeds = log.read_text()
        log.unlink()
        pytest.fail(f"this test, or what it started, did what no test may do:\n{deeds}")


def end_guard() -> None:
    """Watch no longer."""
    os.environ.pop("TESTS_GUARD_LOG", None)


def files_of(repository: Path) -> set[str]:
    """Every file there, but for what tools keep and the logs that slow tests write."""
    found: set[str] = set()
    for folder, names, files in os.walk(repository):
        names[:] = [name for name in names if name not in _OTHERS]
        found |= {os.path.join(folder, name) for name in files}
    logs = str(TESTS / "logs") + os.sep
    return {path for path in found if not path.startswith(logs)}
