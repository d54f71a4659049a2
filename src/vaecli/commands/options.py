"""The options several commands share, declared once, and the file they may come from.

A value comes from the command line, else VAECLI_<COMMAND>_<OPTION>, else a short variable
such as VAECLI_DEVICE, else the configuration file, else the default.  Options default to
"not given", so that a resumed run and a file can tell.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vaecli import files
from vaecli.errors import UsageError
from vaecli.limits import MAX_CONFIG_BYTES
from vaecli.ui import Terminal

MACHINE, OUTPUT = "Machine", "Output and messages"
DATA_NAMES = ("auto", "digits", "mnist", "fashion-mnist", "kmnist", "cifar10")
"""As `vaecli.data` has them, which imports torch: too slow for a shell that completes a word."""
DEFAULT_FILE = Path("vaecli.toml")
SHORT_VARIABLES = {
    "data_dir": "VAECLI_DATA_DIR",
    "no_download": "VAECLI_NO_DOWNLOAD",
    "model": "VAECLI_MODEL",
    "device": "VAECLI_DEVICE",
    "threads": "VAECLI_THREADS",
    "config": "VAECLI_CONFIG",
}


def with_default(text: str, default: object) -> str:
    r"""Help text that names the default of an option whose value is None when not given."""
    return rf"{text} \[default: {default}]"


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def complete_data(incomplete: str) -> list[str]:
    """Named sets, for a shell; where none fits, the shell goes on with files."""
    return _starting(incomplete, DATA_NAMES)


def complete_runs(incomplete: str) -> list[str]:
    """`latest` and the numbered runs, the newest first."""
    runs = sorted((str(path.parent) for path in Path("runs").glob("*/config.json")), reverse=True)
    return _starting(incomplete, ["latest", *runs])


def complete_devices(incomplete: str) -> list[str]:
    """What --device takes."""
    return _starting(incomplete, ["auto", "cpu", "cuda"])


def read_defaults(ctx: typer.Context, file: str | None) -> str | None:
    """Fill in defaults from the configuration file and the short environment variables."""
    known = _parameters(ctx)
    defaults = {}
    path = file or os.environ.get(SHORT_VARIABLES["config"])
    if path or DEFAULT_FILE.is_file():
        defaults = _read_file(Path(path or DEFAULT_FILE), ctx)
    for name, variable in SHORT_VARIABLES.items():
        if name in known and os.environ.get(variable):
            defaults[name] = os.environ[variable]
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return file


Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        is_eager=True,
        callback=read_defaults,
        help=with_default(
            "Read options from this TOML file. Also VAECLI_CONFIG.", "vaecli.toml, where present"
        ),
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only errors on stderr.", rich_help_panel=OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="More on stderr.", rich_help_panel=OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Results and errors as JSON on stdout.", rich_help_panel=OUTPUT),
]
Force = Annotated[
    bool,
    typer.Option("--force", "-f", help="Replace existing output.", rich_help_panel=OUTPUT),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT),
]
NoProgress = Annotated[
    bool,
    typer.Option("--no-progress", help="No live bar.", rich_help_panel=OUTPUT),
]
Preview = Annotated[
    bool | None,
    typer.Option(
        "--preview/--no-preview",
        help=with_default("Draw pictures in the terminal.", "at a terminal"),
        rich_help_panel=OUTPUT,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=complete_devices,
        help=with_default("auto, cpu, cuda or cuda:N. Also VAECLI_DEVICE.", "auto"),
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=with_default("CPU threads. Also VAECLI_THREADS.", "torch's choice"),
        rich_help_panel=MACHINE,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help=with_default(
            "Where named data sets and prepared images are kept. Also VAECLI_DATA_DIR.",
            "the user's cache folder",
        ),
        rich_help_panel=MACHINE,
    ),
]
NoDownload = Annotated[
    bool,
    typer.Option(
        "--no-download",
        help="Never use the network. Also VAECLI_NO_DOWNLOAD.",
        rich_help_panel=MACHINE,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=with_default("The only source of randomness.", "0"),
    ),
]
RunSeed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=with_default("The only source of randomness.", "the run's own, or 0"),
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=complete_runs,
        help=with_default(
            "A run directory, a .safetensors file, latest, or hf://OWNER/NAME. Also VAECLI_MODEL.",
            "latest",
        ),
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        metavar="DATA",
        autocompletion=complete_data,
        help=with_default(
            "digits, mnist, fashion-mnist, kmnist, a folder of images, or an .npy or .npz file.",
            "the run's own",
        ),
    ),
]
SkipBad = Annotated[
    bool | None,
    typer.Option(
        "--skip-bad",
        help="Leave unreadable images out, list them, go on.",
    ),
]
Split = Annotated[
    Literal["test", "train", "all"] | None,
    typer.Option(
        help=with_default("Which images.", "test; all for another set than the run's own"),
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=with_default("Use only the first N images.", "all"),
    ),
]
BINARIZE_HELP = (
    "Pixels as black or white: dynamic draws with the grey level's probability, anew each"
    " epoch; static draws once, from a fixed constant."
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


def _parameters(ctx: typer.Context) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in ctx.command.params if parameter.name}


def _read_file(path: Path, ctx: typer.Context) -> dict[str, Any]:
    """The options of this command in a TOML file, converted and checked.

    Raises:
        UsageError: the file cannot be read, or holds an unknown key or a bad value.
    """
    try:
        content = tomllib.loads(files.read_capped(path, MAX_CONFIG_BYTES).decode())
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}", "Check the path.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}", "Correct the file.") from None
    assert ctx.parent is not None
    commands: dict[str, Any] = ctx.parent.command.commands  # type: ignore[attr-defined]
    options = {name: _option_names(command) for name, command in commands.items()}
    everywhere = set().union(*options.values())
    result: dict[str, Any] = {}
    sections = {key: value for key, value in content.items() if key in commands}
    for key, value in content.items():
        if key not in commands:
            _known(key, everywhere | commands.keys(), path)
            result |= _convert(key, value, path, ctx)
    for section, values in sections.items():
        if not isinstance(values, dict):
            raise UsageError(f"--config {path}: {section} must be a table, [{section}]")
        for key, value in values.items():
            _known(key, options[section], path, f"[{section}] ")
            if section == ctx.info_name:
                result |= _convert(key, value, path, ctx)
    return result


def _option_names(command: Any) -> set[str]:
    names = {name for parameter in command.params for name in parameter.opts if name[:2] == "--"}
    return {name[2:] for name in names} - {"help", "config"}


def _known(key: str, known: set[str], path: Path, section: str = "") -> None:
    if key not in known:
        near = difflib.get_close_matches(key[:80], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "See `vaecli COMMAND --help` for names."
        raise UsageError(f"--config {path}: {section}{key[:80]}: unknown option", hint)


def _convert(key: str, value: Any, path: Path, ctx: typer.Context) -> dict[str, Any]:
    """One option as the command line would have read it; {} where this command lacks it."""
    for name, parameter in _parameters(ctx).items():
        if f"--{key}" not in parameter.opts:
            continue
        is_flag = getattr(parameter, "is_flag", False)
        scalar = isinstance(value, bool) if is_flag else type(value) in (str, int, float)
        if isinstance(value, list) and key == "hidden":
            value, scalar = ",".join(map(str, value)), True
        try:
            if isinstance(value, str) and "\0" in value:
                raise ValueError("it holds a null character")
            if not scalar:
                raise ValueError(
                    "true or false is needed" if is_flag else "a text or number is needed"
                )
            parameter.process_value(ctx, value if is_flag else str(value))
        except Exception as error:
            why = getattr(error, "message", None) or str(error)
            raise UsageError(f"--config {path}: {key}: {why}", "Correct the file.") from None
        return {name: value if is_flag else str(value)}
    return {}
