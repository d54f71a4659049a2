"""The options several commands share, declared once.

They default to "not given", so that a resumed run and a configuration file can tell.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vaecli.cli import completion, config_file
from vaecli.errors import UsageError
from vaecli.terminal.terminal import Terminal

DATA, TRAINING, OUTPUT, MACHINE = "Data", "Training", "Output and messages", "Machine"


OWN_IMAGES = "a folder, .zip or .tar of images, or an .npy, .npz, .csv or idx file"


def home_text(text: str) -> str:
    """`text` with a leading `~` as the home folder.

    A shell expands `--data ~/photos`, but not `--data=~/photos`, a variable or a TOML file.
    """
    return os.path.expanduser(text)


def home_path(text: str) -> Path:
    """As `home_text`, as a path."""
    return Path(home_text(text))


def option(
    text: str,
    *names: str,
    default: object = None,
    metavar: str | None = None,
    panel: str | None = None,
    **more: Any,
) -> Any:
    r"""An option of a command.

    Args:
        text: what it does.
        names: how it is written; by default as its parameter is called.
        default: what help names where the parameter's own default, None, means "not given".
        metavar: what help calls its value.
        panel: the part of help it stands in.
        more: as for `typer.Option`.
    """
    if default is not None:
        shown = f"{default:g}" if isinstance(default, float) else default
        text = rf"{text} \[default: {shown}]"
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=panel, show_envvar=False, **more
    )


Config = Annotated[
    str | None,
    option(
        "TOML file of options.",
        "--config",
        "-c",
        default="vaecli.toml",
        metavar="FILE",
        panel=OUTPUT,
        parser=home_text,
        is_eager=True,
        callback=config_file.read_defaults,
    ),
]
Quiet = Annotated[bool, option("Only errors on stderr.", "--quiet", "-q", panel=OUTPUT)]
Verbose = Annotated[bool, option("More on stderr.", "--verbose", "-v", panel=OUTPUT)]
Json = Annotated[bool, option("Results and errors as JSON on stdout.", "--json", panel=OUTPUT)]
Force = Annotated[bool, option("Replace existing output.", "--force", "-f", panel=OUTPUT)]
Debug = Annotated[bool, option("Show the traceback of an error.", "--debug", panel=OUTPUT)]
NoProgress = Annotated[bool, option("No live bar.", "--no-progress", panel=OUTPUT)]
Preview = Annotated[
    bool | None,
    option(
        "Draw pictures.",
        "--preview/--no-preview",
        default="at a terminal",
        panel=OUTPUT,
    ),
]
Device = Annotated[
    str | None,
    option(
        "auto, cpu, cuda, cuda:N or mps.",
        default="auto",
        metavar="NAME",
        autocompletion=completion.devices,
        panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    option("CPU threads.", default="torch's choice", metavar="N", panel=MACHINE),
]
DataDir = Annotated[
    Path | None,
    option(
        "Where data sets are kept.",
        default="the user's cache folder",
        metavar="DIR",
        panel=MACHINE,
        parser=home_path,
    ),
]
NoDownload = Annotated[bool, option("Never use the network.", "--no-download", panel=MACHINE)]
Seed = Annotated[
    int | None,
    option("The only source of randomness.", default="0", metavar="N", panel=TRAINING),
]
RunSeed = Annotated[
    int | None, option("The only source of randomness.", default="the run's own, or 0", metavar="N")
]
Model = Annotated[
    str | None,
    option(
        "A run directory, a .safetensors file, latest, or hf://OWNER/NAME.",
        "--model",
        "-m",
        default="latest",
        metavar="MODEL",
        parser=home_text,
        autocompletion=completion.runs,
    ),
]
EvalData = Annotated[
    str | None,
    option(
        f"digits, mnist, fashion-mnist, kmnist, or {OWN_IMAGES}.",
        "--data",
        "-d",
        default="the run's own",
        metavar="DATA",
        parser=home_text,
        autocompletion=completion.data,
        panel=DATA,
    ),
]
SkipBad = Annotated[
    bool | None, option("Leave unreadable images out, list them, go on.", "--skip-bad", panel=DATA)
]
Split = Annotated[
    Literal["test", "train", "validation", "all"] | None,
    option(
        "Which images; validation are those of a validation split, or those that --patience"
        " watched.",
        default="test; all for another set than the run's own",
        panel=DATA,
    ),
]
Limit = Annotated[
    int | None, option("Use only the first N images.", default="all", metavar="N", panel=DATA)
]
BINARIZE_HELP = (
    "Draw pixels black or white by their grey level: dynamic, anew each epoch; static, once."
)


@dataclass(frozen=True)
class Common:
    """The options every command has, after parsing."""

    terminal: Terminal
    device: str
    threads: int | None
    data_dir: Path | None
    download: bool
    force: bool

    @classmethod
    def of(cls, ctx: typer.Context) -> Common:
        """Take them from the parsed command line, and set the terminal up."""
        values = ctx.params
        terminal = ctx.ensure_object(Terminal)
        terminal.quiet, terminal.verbose = values["quiet"], values["verbose"]
        terminal.json, terminal.debug = values["json"], values["debug"]
        terminal.progress = not values["no_progress"]
        terminal.preview = values.get("preview") is not False
        data_dir = values.get("data_dir")
        return cls(
            terminal=terminal,
            device=values.get("device") or "auto",
            threads=values.get("threads"),
            data_dir=None if data_dir is None else Path(data_dir),
            download=not values.get("no_download", False),
            force=values["force"],
        )

    def require_stdout(self) -> None:
        """UsageError where data that goes to stdout would meet that of --json."""
        if self.terminal.json:
            raise UsageError(
                "--json and data on stdout contradict each other", "Name a file with -o."
            )

    def use_threads(self, recorded: int | None = None) -> None:
        """Set torch's thread count to what was asked for, else to what a run recorded."""
        import torch

        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise UsageError(f"--threads must be 1 to 1024, not {self.threads}")
        if count := self.threads or recorded:
            torch.set_num_threads(count)


def require_at_least(option: str, value: float | None, least: float) -> None:
    """UsageError when a number was given and is too small."""
    if value is not None and not value >= least:
        raise UsageError(f"{option} must be at least {least:g}, not {value:g}")
