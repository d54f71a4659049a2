"""Break the code on purpose and demand that the suite notices.

Each `NAME.patch` beside this file is one slip.  Its first line names the tests that must catch
it: `Caught by: tests/test_a.py tests/test_b.py`.  The patch is applied to a copy; a patch that no
longer applies, or that no test notices, fails the run.

    python tests/mutations/run.py [NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


def survives(patch: Path, folder: Path) -> str | None:
    """Apply `patch` to the copy in `folder`; why it is not caught, or None when it is."""
    first, _, _ = patch.read_text().partition("\n")
    tests = first.removeprefix("Caught by:").split()
    if not first.startswith("Caught by:") or not tests:
        return "its first line does not name the tests that catch it"
    applied = subprocess.run(
        ["git", "apply", str(patch)], cwd=folder, capture_output=True, text=True
    )
    if applied.returncode:
        return f"it no longer applies: {applied.stderr.strip()}"
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "",
        *tests,
    ]
    outcome = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if outcome.returncode == 1:
        return None
    return f"pytest ended with {outcome.returncode}, not with a failed test"


def main(names: list[str]) -> int:
    """Run the named patches, or all; the number that were not caught."""
    patches = [HERE / f"{name}.patch" for name in names] or sorted(HERE.glob("*.patch"))
    missed = 0
    for patch in patches:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for part in ("src", "tests", "docs"):
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / part, folder / part, ignore=ignore)
            for file in (REPOSITORY / "pyproject.toml", *REPOSITORY.glob("*.md")):
                shutil.copy(file, folder)
            reason = survives(patch, folder)
        missed += reason is not None
        print(
            f"{patch.stem}: {'caught' if reason is None else 'NOT CAUGHT: ' + reason}", flush=True
        )
    print(f"{len(patches) - missed} passed, {missed} failed")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
