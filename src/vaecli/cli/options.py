"""The options several commands share, declared once, and groups of options as one value.

They default to "not given", so that a resumed run and a configuration file can tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from vaecli.cli import completion, config_file
from vaecli.errors import UsageError, option_name
from vaecli.terminal.terminal import Terminal
from vaecli.training.settings import DATA, SKIP_BAD_HELP, Setting

if TYPE_CHECKING:
    from vaecli.data.reading import Reading

OUTPUT, MACHINE = "Output and messages", "Machine"


SETS = (
    "digits, mnist, fashion-mnist, kmnist, cifar10, emnist-letters, -balanced, omniglot, usps, svhn"
)
OWN_IMAGES = (
    "a folder, .zip or .tar of images, an .npy, .npz, .csv, .parquet or idx file, or"
    " hf://datasets/OWNER/NAME"
)


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


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer reads it, with one option for each field of its dataclasses.

    Args:
        command: a function of parameters that are options, and of parameters that are dataclasses
            whose fields are options; it gets each dataclass as one value.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            by_name = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[name], kind=by_name))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for name, group in groups.items():
            own = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**own)
        command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return expanded


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    """The fields of a dataclass, each annotated with an option or with a `Setting`."""
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        hint = hints[field.name]
        for about in getattr(hint, "__metadata__", ()):
            if isinstance(about, Setting):
                hint = _setting_option(field.name, hint.__origin__, about)
        required = field.default is dataclasses.MISSING
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else field.default,
            annotation=hint,
        )


def _setting_option(field: str, hint: Any, about: Setting) -> Any:
    """The option of a field of `Settings`, as the annotation of a parameter."""
    declared = dict(vars(about))
    names = [option_name(field), declared.pop("short")]
    made = option(declared.pop("text"), *filter(None, names), **declared)
    return Annotated[str | None if about.parser else hint, made]


Preview = Annotated[
    bool | None,
    option(
        "Draw pictures.",
        "--preview/--no-preview",
        default="at a terminal",
        panel=OUTPUT,
    ),
]
RunSeed = Annotated[
    int | None, option("The only source of randomness.", default="the run's own, or 0", metavar="N")
]
_MODEL = (
    "A run directory, a .safetensors file, latest, hf://OWNER/NAME, or digits, which comes with"
    " vaecli{}."
)
_MODEL_NAMES = ("--model", "-m")
_MODEL_MORE: dict[str, Any] = {
    "default": "latest",
    "metavar": "MODEL",
    "parser": home_text,
    "autocompletion": completion.runs,
}
Model = Annotated[str | None, option(_MODEL.format(""), *_MODEL_NAMES, **_MODEL_MORE)]
Models = Annotated[
    list[str] | None,
    option(
        _MODEL.format("; several are compared"),
        *_MODEL_NAMES,
        allow_from_autoenv=False,  # it would end a name at a space; config_file.py reads it
        **_MODEL_MORE,
    ),
]
EvalData = Annotated[
    str | None,
    option(
        f"{SETS}, {OWN_IMAGES}.",
        "--data",
        "-d",
        default="the run's own",
        metavar="DATA",
        parser=home_text,
        autocompletion=completion.data,
        panel=DATA,
    ),
]
SkipBad = Annotated[bool | None, option(SKIP_BAD_HELP, "--skip-bad", panel=DATA)]
Split = Annotated[
    Literal["test", "train", "validation", "all"] | None,
    option(
        "Which images; validation means a validation split, or the images held out for --patience.",
        default="test; all if --data is not the run's own",
        panel=DATA,
    ),
]
Limit = Annotated[
    int | None, option("Use only the first N images.", default="all", metavar="N", panel=DATA)
]


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options every command has."""

    ctx: typer.Context
    force: Annotated[bool, option("Replace existing output.", "--force", "-f", panel=OUTPUT)] = (
        False
    )
    config: Annotated[
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
    ] = None
    json: Annotated[
        bool, option("Results and errors as JSON on stdout.", "--json", panel=OUTPUT)
    ] = False
    quiet: Annotated[bool, option("Only errors on stderr.", "--quiet", "-q", panel=OUTPUT)] = False
    verbose: Annotated[bool, option("More on stderr.", "--verbose", "-v", panel=OUTPUT)] = False
    debug: Annotated[bool, option("Show the traceback of an error.", "--debug", panel=OUTPUT)] = (
        False
    )
    no_progress: Annotated[bool, option("No progress bar.", "--no-progress", panel=OUTPUT)] = False
    device: Annotated[
        str,
        option(
            "auto, cpu, cuda, cuda:N or mps.",
            metavar="NAME",
            autocompletion=completion.devices,
            panel=MACHINE,
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        option("CPU threads.", default="torch's choice", metavar="N", panel=MACHINE),
    ] = None
    data_dir: Annotated[
        Path | None,
        option(
            "Where data sets are kept.",
            default="the user's cache folder",
            metavar="DIR",
            panel=MACHINE,
            parser=home_path,
        ),
    ] = None
    no_download: Annotated[
        bool, option("Never use the network.", "--no-download", panel=MACHINE)
    ] = False

    def __post_init__(self) -> None:
        terminal = self.terminal
        terminal.quiet, terminal.verbose = self.quiet, self.verbose
        terminal.json, terminal.debug = self.json, self.debug
        terminal.progress = not self.no_progress

    @property
    def terminal(self) -> Terminal:
        """Where the command writes."""
        return self.ctx.ensure_object(Terminal)

    @property
    def download(self) -> bool:
        """Whether the network may be used."""
        return not self.no_download

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """How data sets are read, while the terminal shows how far that is."""
        from vaecli.data.reading import Reading

        with self.terminal.working() as progress:
            yield Reading(self.data_dir, self.download, self.terminal.warning, progress)

    def require_stdout(self) -> None:
        """UsageError where data that goes to stdout would meet that of --json."""
        if self.terminal.json:
            raise UsageError(
                "--json and data on stdout contradict each other", "Name a file with -o."
            )

    def use_threads(self, recorded: int | None = None) -> None:
        """Set torch's thread count to what was asked for, else to what a run recorded."""
        import torch

        self.check_threads()
        if count := self.threads or recorded:
            torch.set_num_threads(count)

    def check_threads(self) -> None:
        """UsageError for a number of threads that makes no sense."""
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise UsageError(f"--threads must be 1 to 1024, not {self.threads}")


def require_at_least(option: str, value: float | None, least: float) -> None:
    """UsageError when a number was given and is too small."""
    if value is not None and not value >= least:
        raise UsageError(f"{option} must be at least {least:g}, not {value:g}")
