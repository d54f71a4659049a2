"""Command lines in processes whose streams fail, for test_environment.py; one import for all.

Reads rows of (arguments, stdout, stderr, buffered) as JSON and prints (exit code, what stderr got)
of each.  Each runs in a fork that ends as any Python process does.  A stream is a path, `closed`,
or `gone` for a pipe without a reader.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from vaecli.__main__ import main

# no fork spends time on what is imported here
for module in (
    "cli.app",
    "api",
    "data.catalogue",
    "evaluation.evaluate",
    "evaluation.generation",
    "training.loop",
    "training.report",
    "data.image_file",
):
    importlib.import_module(f"vaecli.{module}")


def stream(descriptor: int, kind: str, buffered: bool) -> io.TextIOWrapper | None:
    """The stream of `descriptor` as Python makes it when it starts."""
    if kind == "closed":
        os.close(descriptor)
        return None
    if kind == "gone":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(kind, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(writer, descriptor)
    os.close(writer)
    raw = io.FileIO(descriptor, "wb", closefd=False)
    binary: Any = io.BufferedWriter(raw) if buffered else raw
    return io.TextIOWrapper(binary, "utf-8", write_through=not buffered)


def run(arguments: list[str], out: str, err: str, buffered: bool) -> tuple[int, str]:
    """The exit code, and what came out on stderr where that is a file."""
    descriptor, heard = tempfile.mkstemp()
    os.close(descriptor)
    child = os.fork()
    if child == 0:
        streams = stream(1, out, buffered), stream(2, err or heard, buffered)
        sys.stdout, sys.stderr = streams
        sys.argv = ["vaecli", *arguments]
        main()
    _, status = os.waitpid(child, 0)
    said = Path(heard).read_text()
    os.remove(heard)
    return os.waitstatus_to_exitcode(status), said


if __name__ == "__main__":
    gc.freeze()  # the forks neither copy nor search what is imported here
    print(json.dumps([run(*row) for row in json.load(sys.stdin)]))
