"""Runs that another version wrote: what can be read is read, else the message names that version."""

from __future__ import annotations

from typing import Any, TypeVar

from edgeprune.errors import ConfigError, UsageError

TableT = TypeVar("TableT")


def this_version() -> str:
    """The version of the edgeprune that runs, '' where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edgeprune")
    except PackageNotFoundError:
        return ""


def writer(content: Any) -> str:
    """The version that wrote a record, as its environment says; '' where it says none."""
    about = content.get("environment") if isinstance(content, dict) else None
    found = about.get("edgeprune") if isinstance(about, dict) else None
    return found[:40] if isinstance(found, str) else ""


def remedy(wrote: str) -> str:
    """Who wrote it, who reads it, and what to do: the end of a message."""
    if not wrote:
        return f"this is edgeprune {this_version()}; use the edgeprune that wrote it, or make the run again."
    if wrote == this_version():
        return f"it says that this very version, {wrote}, wrote it: it was changed since; make the run again."
    return (
        f"it was written by edgeprune {wrote}, and this is {this_version()}; use that version "
        f"(pip install edgeprune=={wrote}), or make the run again."
    )


def stored(kind: type[TableT], content: Any, where: str, wrote: str) -> TableT:
    """A table out of a record, which another version may have written.

    Args:
        kind: see `edgeprune.tables.read_table`.
        content: the table.
        where: the beginning of a message.
        wrote: the version that the record names.

    Raises:
        UsageError: it holds what this version does not know; the message names the version that does.
    """
    from edgeprune.tables import read_table

    try:
        return read_table(kind, content, where)
    except ConfigError as error:
        raise UsageError(f"{str(error).rstrip('.')}; {remedy(wrote)}") from error
