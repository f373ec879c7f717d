"""Records ↔ what `json` writes and reads; types are checked on the way back, numbers are finite both ways."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

RecordT = TypeVar("RecordT")


def to_json(value: Any) -> Any:
    """Records, mappings and sequences as what `json` can write.

    Raises:
        ValueError: a number is not finite; records must say None with a reason instead.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} in a record: only finite numbers are written")
    if isinstance(value, Path):
        return str(value)
    return value


def from_json(kind: type[RecordT], content: Any) -> RecordT:
    """Rebuild a record of type `kind` from what `to_json` wrote; unknown keys are ignored.

    Raises:
        KeyError, TypeError, ValueError: the content does not describe such a record.
    """
    result: RecordT = _read(kind, content)
    return result


def _read(kind: Any, content: Any) -> Any:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if kind is Any:
        return content
    if origin in (typing.Union, types.UnionType):
        if content is None:
            return None
        return _read(next(a for a in arguments if a is not type(None)), content)
    if origin is Literal:
        if content not in arguments:
            raise ValueError(f"'{content}' is none of {', '.join(map(str, arguments))}")
        return content
    if origin in (tuple, dict) and not isinstance(content, list if origin is tuple else dict):
        raise TypeError(f"expected {'a list' if origin is tuple else 'an object'}, found {content!r}")
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_read(arguments[0], item) for item in content)
        if len(content) != len(arguments):
            raise ValueError(f"expected {len(arguments)} values, found {len(content)}")
        return tuple(_read(a, item) for a, item in zip(arguments, content, strict=True))
    if origin is dict:
        return {key: _read(arguments[1], item) for key, item in content.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(content, dict):
            raise TypeError(f"{kind.__name__} must be an object, not {type(content).__name__}")
        hints = typing.get_type_hints(kind)
        known = {f.name for f in dataclasses.fields(kind)}
        return kind(**{k: _read(hints[k], v) for k, v in content.items() if k in known})
    if kind is float and type(content) in (int, float):
        if not math.isfinite(content):
            raise ValueError(f"{content} in a record: only finite numbers are read")
        return float(content)
    if kind is int and isinstance(content, bool):
        raise TypeError(f"expected int, found {content!r}")
    if kind in (int, float, str, bool) and not isinstance(content, kind):
        raise TypeError(f"expected {kind.__name__}, found {content!r}")
    return content
