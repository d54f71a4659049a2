"""Run tests against what is published: `python tests/installed.py DIST [PYTEST ARGUMENTS]`.

The wheel in the folder DIST goes into the environment of this interpreter; the tests come from
the source distribution beside it, unpacked elsewhere and without its `src`, so that nothing but
the wheel can be what they test.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main(dist: Path, arguments: list[str]) -> int:
    """Install, unpack, test; the exit code of pytest."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, str(wheel)], check=True)
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(sdist) as archive:
            archive.extractall(temporary, filter="data")
        (folder,) = Path(temporary).iterdir()
        shutil.rmtree(folder / "src")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
