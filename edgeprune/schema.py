"""JSON Schemas of the public formats, made from the dataclasses that read them.

Editors check edgeprune.toml with it (Taplo: `#:schema edgeprune.schema.json` in the first line).

Source: JSON Schema, draft 2020-12.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any, Literal

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ATTRIBUTE = re.compile(r"^(\w+): (.*?)(?=^\w+: |\Z)", re.MULTILINE | re.DOTALL)


def schema_of(kind: type[Any], title: str, *, strict: bool = True) -> dict[str, Any]:
    """The schema of a dataclass as TOML or JSON.

    Args:
        kind: a dataclass of what `edgeprune.tables` and `edgeprune.records.run` read.
        title: what the file is called.
        strict: whether a key that no field has is an error.
    """
    definitions: dict[str, Any] = {}
    root = _object(kind, definitions, strict)
    return {"$schema": DRAFT, "title": title, **root, "$defs": dict(sorted(definitions.items()))}


def settings_schema() -> dict[str, Any]:
    """The schema of `edgeprune.toml` and of `[tool.edgeprune]`."""
    from edgeprune.config import Settings

    made = schema_of(Settings, "edgeprune.toml")
    target = made["properties"]["target"]
    one = {"type": "string"}
    alternatives = {"anyOf": [one, {k: v for k, v in target.items() if k in ("type", "items")}]}
    made["properties"]["target"] = {
        **{k: v for k, v in target.items() if k in ("description", "default")},
        **alternatives,
    }
    share = {"exclusiveMinimum": 0, "maximum": 1}
    for name in ("keep", "params", "macs"):
        _number(made["properties"][name]).update(share)
    return made


def described(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a dataclass says about each field."""
    text = inspect.cleandoc(kind.__doc__ or "")
    _, found, rest = text.partition("\nAttributes:\n")
    if not found:
        return {}
    block = inspect.cleandoc("\n" + re.split(r"\n(?=\S)", rest)[0])
    return {name: " ".join(words.split()) for name, words in _ATTRIBUTE.findall(block)}


def _object(kind: type[Any], definitions: dict[str, Any], strict: bool) -> dict[str, Any]:
    hints, words = typing.get_type_hints(kind), described(kind)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(kind):
        made = _schema(hints[field.name], definitions, strict)
        if field.name in words:
            made = {"description": words[field.name], **made}
        if field.default is not dataclasses.MISSING:
            made = {**made, "default": _plain(field.default)}
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = made
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = required
    return {**found, "additionalProperties": False} if strict else found


def _schema(kind: Any, definitions: dict[str, Any], strict: bool) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # taken, so that a record within itself ends here
            definitions[kind.__name__] = _object(kind, definitions, strict)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(a, definitions, strict) for a in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": _schema(arguments[0], definitions, strict)}
        places = [_schema(a, definitions, strict) for a in arguments]
        return {"type": "array", "prefixItems": places, "items": False, "minItems": len(places)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _entry(arguments[1], definitions, strict)}
    return {"type": _PLAIN[kind]}


def _entry(kind: Any, definitions: dict[str, Any], strict: bool) -> dict[str, Any]:
    """A value of an open table; TOML may write text as a number or a boolean there."""
    if strict and kind is str:
        return {"type": ["string", "number", "boolean"]}
    return _schema(kind, definitions, strict)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _number(made: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that speaks of the number."""
    parts = [part for part in made.get("anyOf", [made]) if part.get("type") == "number"]
    found: dict[str, Any] = parts[0]
    return found
