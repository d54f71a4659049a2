"""Option values that come from environment variables and a TOML configuration file.

A value comes from the command line, else VAECLI_<COMMAND>_<OPTION>, else a short variable
such as VAECLI_DEVICE, else the configuration file, else the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from vaecli.errors import UsageError
from vaecli.system import files
from vaecli.system.size_limits import MAX_CONFIG_BYTES

DEFAULT_FILE = Path("vaecli.toml")
SHORT_VARIABLES = {
    "data_dir": "VAECLI_DATA_DIR",
    "no_download": "VAECLI_NO_DOWNLOAD",
    "model": "VAECLI_MODEL",
    "device": "VAECLI_DEVICE",
    "threads": "VAECLI_THREADS",
    "config": "VAECLI_CONFIG",
}


def read_defaults(ctx: typer.Context, file: str | None) -> str | None:
    """Fill in defaults from the configuration file and the short environment variables."""
    known = _parameters(ctx)
    defaults = {}
    path = file or os.path.expanduser(os.environ.get(SHORT_VARIABLES["config"], ""))
    if path or DEFAULT_FILE.is_file():
        defaults = _read_file(Path(path or DEFAULT_FILE), ctx)
    for name, variable in SHORT_VARIABLES.items():
        if name not in known:
            continue
        many = getattr(known[name], "multiple", False)
        own = f"VAECLI_{str(ctx.info_name).upper()}_{name.upper()}"
        if many and os.environ.get(own):
            variable = own
        if value := os.environ.get(variable):
            defaults[name] = [value] if many else value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return file


def _parameters(ctx: typer.Context) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in ctx.command.params if parameter.name}


def _read_file(path: Path, ctx: typer.Context) -> dict[str, Any]:
    """The options of this command in a TOML file, converted and checked.

    Raises:
        UsageError: the file cannot be read, or holds an unknown key or a bad value.
    """
    import tomllib

    try:
        content = tomllib.loads(files.read_capped(path, MAX_CONFIG_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}", "Check the path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"--config {path}: it is not UTF-8", "Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}", "Correct the file.") from None
    assert ctx.parent is not None
    group: Any = ctx.parent.command
    commands = group.list_commands(ctx.parent)
    options = {name: _option_names(group.get_command(ctx.parent, name)) for name in commands}
    everywhere = set().union(*options.values())
    result: dict[str, Any] = {}
    sections = {key: value for key, value in content.items() if key in commands}
    for key, value in content.items():
        if key not in commands:
            _known(key, everywhere | options.keys(), path)
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
        import difflib

        near = difflib.get_close_matches(key[:80], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "See `vaecli COMMAND --help` for names."
        raise UsageError(f"--config {path}: {section}{key[:80]}: unknown option", hint)


def _convert(key: str, value: Any, path: Path, ctx: typer.Context) -> dict[str, Any]:
    """One option as the command line would have read it; {} where this command lacks it."""
    for name, parameter in _parameters(ctx).items():
        if f"--{key}" not in parameter.opts:
            continue
        is_flag = getattr(parameter, "is_flag", False)
        if isinstance(value, list) and key == "hidden":
            value = ",".join(map(str, value))
        multiple = getattr(parameter, "multiple", False)
        values = value if multiple and isinstance(value, list) else [value]
        try:
            if any(isinstance(each, str) and "\0" in each for each in values):
                raise ValueError("it holds a null character")
            kinds = (bool,) if is_flag else (str, int, float)
            if any(type(each) not in kinds for each in values):
                raise ValueError(
                    "true or false is needed" if is_flag else "a string or number is needed"
                )
            texts = values if is_flag else [str(each) for each in values]
            taken = texts if multiple else texts[0]
            parameter.process_value(ctx, taken)
        except Exception as error:
            why = (getattr(error, "message", None) or str(error)).removeprefix(f"--{key} ")
            raise UsageError(f"--config {path}: {key}: {why}", "Correct the file.") from None
        return {name: taken}
    return {}
