"""Why a group that could lose units keeps all of them, in a few words."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.config import Settings
from edgeprune.graph.groups import Coupling, Group
from edgeprune.widths.budget import Multiples


def left_whole(
    coupling: Coupling,
    widths: Mapping[str, int],
    multiples: Multiples,
    settings: Settings,
    known: Mapping[str, str],
) -> tuple[tuple[str, str], ...]:
    """(group, reason) of every group that keeps all its units.

    Args:
        widths: units that are kept, by group.
        known: reasons that the allocation itself found.
    """
    whole = [group for group in coupling.groups if widths[group.name] >= group.size]
    return tuple((g.name, known.get(g.name) or _reason(g, multiples, settings)) for g in whole)


def _reason(group: Group, multiples: Multiples, settings: Settings) -> str:
    multiple, (kind, share) = multiples.multiple(group), settings.budget
    if multiple > 1 and group.size <= multiple:
        return f"no wider than one multiple of {multiple}, {_grid(settings)}"
    if kind == "keep" and settings.allocation == "uniform" and share < 1:
        return f"{share:g} of {group.size} units, in multiples of {multiple}, are all of them"
    return "the budget is met without narrowing it"


def _grid(settings: Settings) -> str:
    if settings.multiple is not None:
        return "as --multiple says"
    return f"the grid of {', '.join(settings.target)}; --multiple 1 cuts finer"
