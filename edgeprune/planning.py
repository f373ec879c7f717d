"""Settings → widths → plan: how many units each group keeps, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from edgeprune.budget import Budget, Multiples
from edgeprune.config import Settings
from edgeprune.families import emphasised
from edgeprune.graph import Coupling
from edgeprune.observation.knowledge import know
from edgeprune.plan import Plan
from edgeprune.preparation import Line
from edgeprune.pricing import Prices
from edgeprune.profiles import Target
from edgeprune.progress import Progress
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.couple import couple
from edgeprune.stages.distribute import Curve, curves, distribute
from edgeprune.stages.radii import radii
from edgeprune.stages.trace import trace
from edgeprune.worst_case import weighed_again


def coupled(line: Line, progress: Progress) -> Coupling:
    """Trace the model, once, and find its groups."""
    for _ in progress(range(1), "tracing the model", 1):
        graph = trace(line.loaded.module, line.inputs)
    settings = line.settings
    return couple(
        graph,
        settings.exclude,
        allow_norm_axes=settings.allow_norm_axes,
        limit_s=settings.couple_limit_s,
        progress=progress,
    )


def allotted(line: Line, coupling: Coupling, progress: Progress) -> dict[str, int]:
    """How many units each group keeps: the same share everywhere, or less where less is lost."""
    multiples = multiples_of(line.settings, line.targets)
    settings, budget = line.settings, Budget(*line.settings.budget)
    if settings.allocation == "uniform":
        return allocate(coupling, budget, multiples)
    knowledge = know(
        coupling, settings.moments, line.fit, settings.seed, bounds=line.bounds, progress=progress
    )
    return spread(coupling, settings, multiples, curves(coupling, knowledge, settings.seed, progress))


def spread(
    coupling: Coupling,
    settings: Settings,
    multiples: Multiples,
    found: Mapping[str, Curve],
    prices: Prices | None = None,
) -> dict[str, int]:
    """The widths of a global allocation, with families weighed and prices mixed as the settings say.

    Args:
        found: the error curve of each group.
        prices: of this net, where they are known already.
    """
    errors = emphasised(coupling, {name: curve.error for name, curve in found.items()}, settings.emphasis)
    weighed = {name: Curve(name, error) for name, error in errors.items()}
    budget, mix = Budget(*settings.budget), settings.price_mix
    if mix is None:
        return distribute(coupling, budget, multiples, weighed)
    price = (prices or Prices.of(coupling)).mixed(mix)
    return distribute(coupling, budget, multiples, weighed, price, polynomial=True)


def multiples_of(settings: Settings, targets: Sequence[Target]) -> Multiples:
    """The least common multiples of what the targets compute well."""
    if settings.multiple is not None:
        return Multiples(settings.multiple, settings.multiple)
    return Multiples(
        math.lcm(*(t.conv_multiple() for t in targets)), math.lcm(*(t.grid.units for t in targets))
    )


def planned(line: Line, coupling: Coupling, widths: Mapping[str, int], progress: Progress) -> Plan:
    """The plan that the settings and the samples give for these widths."""
    settings = line.settings
    plan = choose(
        coupling,
        widths,
        settings.method,
        line.fit,
        seed=settings.seed,
        radii=radii(coupling, line.everywhere, line.inputs),
        manner=Manner(settings.moments, settings.direction, settings.recalibrate, line.bounds),
        labels=None if line.fit_labels is None else torch.from_numpy(line.fit_labels[: settings.samples]),
        progress=progress,
    )
    if not settings.minimax_lambda:
        return plan
    return weighed_again(coupling, plan, line.fit, line.everywhere, settings.minimax_lambda, progress)
