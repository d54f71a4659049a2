"""The vaecli command on the double of a GPU, and what the double saw of it on stderr.

python tests/doubles/cuda_command.py [--kind cuda|mps] [--devices N] [--memory BYTES] ARGUMENT...
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from doubles.cuda import double
from vaecli.cli import app


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("cuda", "mps"), default="cuda")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--memory", type=int, default=8 << 30)
    options, arguments = parser.parse_known_args()
    with double(options.kind, devices=options.devices, memory=options.memory) as seen:
        status = app.run(arguments)
    print(
        f"[double] exit {status}; {seen.records} graphs recorded, {seen.replays} replays,"
        f" {seen.elsewhere} operations on another device; TF32: {dict(seen.tf32)}",
        file=sys.stderr,
    )
    for place, count in seen.syncs.most_common():
        print(f"[double] synchronized {count} times at {place}", file=sys.stderr)
    return status


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
