"""What the original net computes on the samples: run once, and kept while there is room.

Every refit is held against the original's values; without this each reader would run the original anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from edgeprune.graph.groups import Graph

ROOM_BYTES = 256 * 2**20
"""Most bytes of values that are kept; what does not fit is computed again."""


@dataclass(slots=True)
class Originals:
    """Values of some nodes of the original, by batch.

    Attributes:
        nodes: names of the nodes that will be asked for.
        room_bytes: what may be kept.
        runs: how often the original was run.
    """

    graph: Graph
    nodes: frozenset[str]
    room_bytes: int = ROOM_BYTES
    runs: int = 0
    _kept: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def value(self, number: int, batch: Sequence[Tensor], name: str) -> Tensor:
        """What the original computes at a node.

        Args:
            number: of the batch; the same number must always mean the same batch.
        """
        found = self._kept.get((number, name))
        if found is not None:
            return found
        every = self.nodes | {name} if self.room_bytes > 0 else frozenset({name})
        values = self.graph.values(batch, {}, every)
        self.runs += 1
        for node, value in values.items():
            size = value.element_size() * value.numel()
            if (number, node) not in self._kept and size <= self.room_bytes:
                self._kept[number, node] = value
                self.room_bytes -= size
        return values[name]
