"""TOML tables into frozen dataclasses, checked field by field.

A dataclass is the schema: its fields are the keys, their annotations the types. What does not
fit is refused with the file, the key, what was found and what was expected.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgeprune.errors import ConfigError
from edgeprune.registry import suggestion

TableT = TypeVar("TableT")

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    except (ValueError, RecursionError) as error:  # malformed, no UTF-8, an endless number or nesting
        raise ConfigError(f"{path}: is not valid TOML: {error}.") from error


def read_table(kind: type[TableT], content: Any, where: str) -> TableT:
    """Build the frozen dataclass `kind` from a TOML table.

    Args:
        kind: a dataclass of text, numbers, booleans, literals, tuples, `dict[str, str]`
            (numbers and booleans become text; `dict[str, str | tuple[str, ...]]` takes lists of
            them too) and further dataclasses. Its `__post_init__`
            may raise ValueError for a value out of range.
        content: the table.
        where: file and table, the beginning of every message.

    Raises:
        ConfigError: an unknown or missing key, a value of a wrong type or out of range.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a table, found {_found(content)}.")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, kind))}
    for key in content:
        if key not in fields:
            raise ConfigError(f"{where}: there is no field '{key}'; {suggestion(key, list(fields))}")
    hints = typing.get_type_hints(kind)
    values = {key: _value(hints[key], item, f"{where}: {key}") for key, item in content.items()}
    for name, described in fields.items():
        required = described.default is described.default_factory is dataclasses.MISSING
        if name not in values and required:
            expected = _expected(hints[name])
            raise ConfigError(f"{where}: the field '{name}' is missing; it must be {expected}.")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from error


def _value(kind: Any, content: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return read_table(typing.cast(Any, kind), content, where)
    if origin in (typing.Union, types.UnionType):
        fitting = [a for a in arguments if _fits(a, content)]
        if fitting:
            return _value(fitting[0], content, where)
    elif origin is tuple and isinstance(content, list):
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(content))
    elif origin is dict and isinstance(content, dict):
        lists = arguments[1] is not str
        return {key: _of_dict(item, lists, f"{where}.{key}") for key, item in content.items()}
    elif _fits(kind, content):
        return float(content) if kind is float else content
    raise ConfigError(f"{where}: expected {_expected(kind)}, found {_found(content)}.")


def _fits(kind: Any, content: Any) -> bool:
    """Whether a TOML value is of a plain type; true is not 1, and an integer is a number."""
    if dataclasses.is_dataclass(kind):
        return isinstance(content, dict)
    if typing.get_origin(kind) is tuple:
        return isinstance(content, list)
    if typing.get_origin(kind) is Literal:
        return any(type(content) is type(a) and content == a for a in typing.get_args(kind))
    if kind is float:
        return type(content) in (int, float) and math.isfinite(content)
    return type(content) is kind


def _of_dict(content: Any, lists: bool, where: str) -> str | tuple[str, ...]:
    """A value of an open table: text, or where `lists` are allowed a list of text."""
    if lists and isinstance(content, list):
        return tuple(_as_text(item, f"{where}[{i}]") for i, item in enumerate(content))
    return _as_text(content, where)


def _as_text(content: Any, where: str) -> str:
    """An option of a provider as onnxruntime takes it: text, with booleans as 1 and 0."""
    if isinstance(content, bool):
        return "1" if content else "0"
    if isinstance(content, str | int | float):
        return str(content)
    raise ConfigError(f"{where}: expected text, a number or true/false, found {_found(content)}.")


def _expected(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(f'"{a}"' for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_expected(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return f"a list (each {_expected(arguments[0])})"
    if origin is dict or dataclasses.is_dataclass(kind):
        return "a table"
    return _WORDS.get(kind, str(kind))


def _found(content: Any) -> str:
    if isinstance(content, str):
        return f'"{content}" (text)'
    if isinstance(content, bool):
        return f"{str(content).lower()} (true or false)"
    if isinstance(content, dict):
        return "a table"
    if isinstance(content, list):
        return f"a list of {len(content)}"
    return f"{content}"
