"""Write docs/cli.md from the commands' own help: `python docs/cli_page.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = ("", "train", "eval", "reconstruct", "sample", "export")
PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """# Command line

Generated from `--help` by `docs/cli_page.py`; a test compares the two.

Every option also reads `VAECLI_<COMMAND>_<OPTION>`; those that mean the same everywhere have a
short name too: `VAECLI_DATA_DIR`, `VAECLI_MODEL`, `VAECLI_DEVICE`, `VAECLI_NO_DOWNLOAD`,
`VAECLI_THREADS`, `VAECLI_CONFIG`. A file `vaecli.toml` in the current folder, or the one named by
`--config`, holds options under the same names, those of all commands at the top and those of one
command in its table:

```toml
data-dir = "/data/sets"

[train]
epochs = 50
hidden = [300, 300]
```

Option beats environment beats file beats default. An unknown key is an error. A path may begin
with `~`, the home folder, in all of them; a folder that is called so is `./~`.

stdout carries data only: `train` prints the run directory, `eval` the metrics,
`reconstruct`, `sample` and `export` the paths written, or the bytes with `-o -`. Everything else
goes to stderr. With `--json` the data is one JSON object, for `reconstruct` one per input, each on
a line of its own; so are errors: `{"error": {"code", "message", "hint"}}`. A path is printed as the
bytes of its name, so that it opens again. A full or closed stdout is
exit 5 if data had to go there, else nothing; a stderr that cannot be written changes no exit code.

`vaecli --install-completion` teaches bash, zsh, fish or PowerShell to complete commands, options
and values: likelihoods, architectures, formats, data sets, devices, the runs under `runs/`. It adds
a file, and for bash and zsh a line in `.bashrc` or `.zshrc`; open a new shell afterwards.
`--show-completion` prints that file instead. Tried in bash 5.2, zsh 5.9 and fish 3.6.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | a failure without a code of its own; a bug |
| 2 | usage: unknown option, bad value, contradictory options, bad configuration file |
| 3 | input data refused |
| 4 | model refused: none found, damaged, other architecture, newer format, changed data |
| 5 | environment: disk, permission, network, device, memory, missing package |
| 6 | training diverged; the last good state is kept |
| 7 | the run directory is in use by another process |
| 8 | `eval --fail-on-alert` found an alert |
| 129, 130, 143 | stopped by SIGHUP, Ctrl-C, SIGTERM; the state is saved |
| 141 | the reader of our pipe went away |
"""


def help_text(command: str) -> str:
    """The help of one command, 90 columns wide and without colour."""
    environment = {**os.environ, "COLUMNS": "90", "TERM": "dumb", "NO_COLOR": "1"}
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        environment.pop(name, None)
    arguments = [sys.executable, "-m", "vaecli", *command.split(), "--help"]
    output = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout
    return "\n".join(line.rstrip() for line in output.strip().splitlines())


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for command in COMMANDS:
        title = f"vaecli {command}".strip()
        parts.append(f"## {title}\n\n```text\n{help_text(command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
