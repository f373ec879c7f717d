"""What a net takes, what may be left of it, and the widths that a target computes well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import UsageError
from edgeprune.graph.groups import Alive, Coupling, Group, Ints
from edgeprune.ops import operation_for
from edgeprune.widths.costs import Costs, Counted

BudgetKind = Literal["keep", "params", "macs", "bytes", "latency"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be left of the original: a share in (0, 1] of units or of a price.

    `keep` speaks of each group's units; MACs are multiply-accumulates; bytes are those of the
    weights; latency is in milliseconds of a target, whose costs are given beside the budget.

    Attributes:
        said: how the user put it, for messages.
    """

    kind: BudgetKind
    share: float
    said: str = ""

    @property
    def option(self) -> str:
        """The budget as an option of the command line."""
        return self.said or f"--{self.kind} {self.share:g}"

    @property
    def counted(self) -> Counted:
        """What to count where no other costs are given."""
        if self.kind == "latency":
            raise ValueError("a budget of latency needs costs that were measured")
        return self.kind


def limit_of(budget: Budget, costs: Costs, least: Mapping[str, int]) -> float:
    """The largest price that the budget allows.

    Args:
        least: the narrowest widths that there are; none given, the limit is not held against them.

    Raises:
        UsageError: the share is out of (0, 1], or even the narrowest net costs more.
    """
    if not 0.0 < budget.share <= 1.0:
        raise UsageError(f"{budget.option}: a share must be above 0 and at most 1.")
    limit = budget.share * costs.price({})
    if budget.kind != "keep" or least:
        left = costs.price(least)
        if left > limit * (1 + 1e-12):
            raise UsageError(
                f"{budget.option}: the smallest net that the groups and the grid allow still takes "
                f"{costs.share(least):.3f} of the original; ask for more, or see `edgeprune inspect` for "
                "what is pinned."
            )
    return limit


@dataclass(frozen=True, slots=True)
class Multiples:
    """Widths that the target computes well: multiples for convolutional groups and for others."""

    conv: int = 1
    units: int = 1

    def multiple(self, group: Group) -> int:
        """The multiple that applies to a group."""
        return self.conv if group.convolutional else self.units


@dataclass(frozen=True, slots=True)
class Cost:
    """What a net takes: parameters, and multiply-accumulates for one sample."""

    params: int
    macs: int


def cost(coupling: Coupling, keep: Mapping[str, Ints]) -> Cost:
    """The cost of what is left when each group keeps these units."""
    return _cost(coupling, coupling.alive(keep))


def _cost(coupling: Coupling, alive: Alive) -> Cost:
    graph = coupling.graph
    parameters = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
    counted: set[str] = set()
    params = macs = 0
    for node in graph.nodes.values():
        if node.operation == "weight":
            if node.target in parameters and node.target not in counted:
                counted.add(node.target)
                params += math.prod(alive.shape(node.name))
        elif (rule := operation_for(node.operation)) is not None:
            macs += rule.macs(node, alive.shape)
    return Cost(params, macs // graph.traced_batch)
