"""What every operation answers: where labels go, what is left of it, what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from edgeprune.graph import Alive, Axes, Flow, Node

Sizes = Callable[[str], tuple[int, ...]]
"""The sizes of a node's tensor, before or after a plan."""


class Operation(ABC):
    """A family of ATen operations that one set of rules serves.

    Attributes:
        name: of the family.
        handles: ATen names without overload, such as `conv2d`.
        modules: module classes whose attributes follow their weights' sizes.
    """

    name: ClassVar[str]
    handles: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()

    @abstractmethod
    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...] | None:
        """The labels of the node's result (one tuple of axes, or one for each tensor returned).

        Ties and pins go to `flow.labels`; channels made or read through a weight are recorded
        with `flow.contact`.

        Raises:
            LookupError: an input carries no labels; all that reaches the node is then pinned.
        """

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        """Arguments of the node that must change when only `alive` is left, by schema name."""
        return {}

    def retarget(self, node: Node, alive: Alive) -> str | None:
        """Another overload to call in the narrowed graph, as `name.overload`; None to keep it."""
        return None

    def resize(self, module: nn.Module) -> None:
        """Make a module's attributes agree with its already narrowed weights."""
        return None

    def macs(self, node: Node, sizes: Sizes) -> int:
        """Multiply-accumulates of the node, the whole batch counted."""
        return 0


def dimension(axis: int, rank: int) -> int:
    """A possibly negative axis as one in [0, rank)."""
    return axis % rank if rank else 0
