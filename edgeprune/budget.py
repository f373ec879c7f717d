"""What a net takes, what may be left of it, and the widths that a target computes well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeprune.graph import Alive, Coupling, Group, Ints
from edgeprune.ops import operation_for

BudgetKind = Literal["keep", "params", "macs"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be left of the original: a share in (0, 1] of units, parameters or MACs.

    `keep` speaks of each group's units; MACs are multiply-accumulates.
    """

    kind: BudgetKind
    share: float


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
