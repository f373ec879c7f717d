"""What every operation answers: where labels go, what is left of it, what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.forms import Application, Chain, Scene
from edgeprune.graph.groups import Alive, Axes, Flow, Node, Ref

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

    def restate(self, node: Node, alive: Alive, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights (float64, at original sizes) that make up for what the node no longer sees.

        Args:
            weights: replacements of the graph's own, by qualified name.
        """
        return {}

    def normalised_axes(self, node: Node, alive: Alive) -> tuple[int, ...]:
        """Axes of the node's input that it normalises over and that lost something."""
        return ()

    def resize(self, module: nn.Module) -> None:
        """Make a module's attributes agree with its already narrowed weights."""
        return None

    def macs(self, node: Node, sizes: Sizes) -> int:
        """Multiply-accumulates of the node, the whole batch counted."""
        return 0

    def form(self, node: Node, scene: Scene) -> Application | Chain | tuple[Application, ...]:
        """What the node is mathematically (for each tensor that it returns), for the bounds.

        Raises:
            UnsupportedOperation: it fits no form; it then has no deterministic bound.
        """
        raise UnsupportedOperation(f"{node.where}: {node.target} fits no form")


def constant(node: Node, scene: Scene, argument: str) -> Tensor | None:
    """An argument that does not depend on the model's inputs, float64; None where it is absent.

    Raises:
        UnsupportedOperation: it depends on them.
    """
    given = node.get(argument)
    if given is None:
        return None
    if isinstance(given, Ref):
        if given.name not in scene.constants:
            raise UnsupportedOperation(f"{node.where}: its {argument} depends on the model's inputs")
        return scene.constants[given.name]
    return torch.tensor(given, dtype=torch.float64)


def replay(node: Node, data: Mapping[str, Any]) -> Any:
    """Call the node's own ATen operation with other tensors for some of its arguments, in their dtype."""
    arguments = {
        key: None if isinstance(value, torch.dtype) else value for key, value in node.arguments.items()
    }
    packet, _, overload = node.target.removeprefix("aten.").partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload)
    return operation(**{**arguments, **data})


def source_of(node: Node) -> tuple[str, str]:
    """The argument that is the node's data, and the node it refers to."""
    for argument, value in node.arguments.items():
        if isinstance(value, Ref):
            return argument, value.name
    raise UnsupportedOperation(f"{node.where}: {node.target} reads no tensor")


def dimension(axis: int, rank: int) -> int:
    """A possibly negative axis as one in [0, rank)."""
    return axis % rank if rank else 0
