"""Runs the notebooks and keeps what they show: python docs/notebooks/execute.py [FOLDER].

Needs nbclient and ipykernel, of the test group.  They run in FOLDER; without it in a temporary one.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NAMES = ("vae_in_ten_minutes", "own_photos")


def execute(name: str, folder: Path) -> None:
    """Run one notebook in `folder` and write it there with its outputs."""
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": str(folder)}}, record_timing=False
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version at hand
    nbformat.write(notebook, folder / f"{name}.ipynb")


if __name__ == "__main__":
    given = sys.argv[1:]
    names = given[1:] or NAMES
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(given[0] if given else temporary)
        for each in names:
            execute(each, where)
            if not given:
                shutil.copyfile(where / f"{each}.ipynb", HERE / f"{each}.ipynb")
