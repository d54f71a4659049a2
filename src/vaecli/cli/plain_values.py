"""Options and arguments that read plain values without pydantic.

Typer converts every value by pydantic, whose import takes longer than all else that a command does
before it imports torch.  Texts, numbers, choices, and what has a parser of its own are read here;
a value that is not, or is wrong, goes to Typer, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

_NUMBERS: dict[Any, Callable[[bytes], float]] = {int: int, float: float}


def plain(parameters: list[Any]) -> list[Any]:
    """The same parameters of a command, which now read plain values themselves."""
    for parameter in parameters:  # Typer makes them, and takes no class of ours for them
        if "process_value" not in vars(parameter):
            parameter.process_value = partial(_process, parameter, parameter.process_value)
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # or help shows <bool>, as if it took a value
            parameter.show_envvar = False
        elif parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # nor <list[str]>
    return parameters


def _process(parameter: Any, by_typer: Callable[..., Any], ctx: Any, value: Any) -> Any:
    """`value` from the command line, a variable or a file, as the parameter's type."""
    try:
        value = _read(parameter, value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return by_typer(ctx, value)
    return value if parameter.callback is None else parameter.callback(ctx, parameter, value)


def _read(parameter: Any, value: Any) -> Any:
    descriptor = parameter.type_descriptor
    many = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    if parameter.required or (many and isinstance(value, str)):
        raise TypeError
    if many:
        return () if value is None else [_read_one(descriptor, item) for item in value]
    if value is None or (type(value) is descriptor.annotation and type(value) is not str):
        return value  # a default, or a flag
    return _read_one(descriptor, value)


def _read_one(descriptor: Any, text: Any) -> Any:
    if not isinstance(text, str):
        raise TypeError
    if descriptor.parameter_info.parser is not None:
        return descriptor.parameter_info.parser(text)
    if descriptor.choices is not None:
        return {choice: choice for choice in descriptor.choices}[text]
    if descriptor.annotation is str:
        return text
    return _NUMBERS[descriptor.annotation](text.encode("ascii"))
