"""Running a traced graph with other weights, with some channels muted, and looking inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from edgeprune.graph.labels import Bools


@dataclass(frozen=True, slots=True)
class Mask:
    """Channels of node `data`, on `axis`, that are heard (True) or read as zero (False)."""

    data: str
    axis: int
    heard: Bools


@dataclass(frozen=True, slots=True)
class Anew:
    """A normaliser that sees only the channels that are left; what it says of the others is zero.

    Attributes:
        kept: by axis of its input, the indices (int64) that are left.
        changes: of its arguments, by schema name.
    """

    kept: Mapping[int, Tensor]
    changes: Mapping[str, Any]


class AllSeen(Exception):
    """Raised inside a run once every wanted value is known."""


class Interpreter(fx.Interpreter):
    """Runs a graph with other weights, remembers some values, and mutes some channels."""

    def __init__(
        self,
        module: fx.GraphModule,
        weights: Mapping[str, Tensor],
        wanted: frozenset[str],
        masks: Mapping[str, Sequence[Mask]],
        dtype: torch.dtype | None = None,
        anew: Mapping[str, Anew] | None = None,
    ) -> None:
        super().__init__(module)
        self.dtype = dtype
        self.anew = anew or {}
        self.weights = weights
        self.wanted = wanted
        self.masks = masks
        self.values: dict[str, Tensor] = {}
        self.stop_early = False

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A weight, replaced as asked; it is cast where it is used, since all are fetched at the start."""
        found = self.weights.get(target)
        return super().get_attr(target, args, kwargs) if found is None else found

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operation, in the asked precision."""
        found = super().call_function(target, args, kwargs)
        return self._cast(found)  # a choice between two numbers has the default precision

    def _precision(self, value: Any) -> Any:
        """Weights, casts and constants of the traced precision follow the asked one."""
        if isinstance(value, torch.dtype):
            return self.dtype if value.is_floating_point else value
        return self._cast(value)

    def _cast(self, value: Any) -> Any:
        wanted = self.dtype is not None and isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self.dtype) if wanted else value

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An input, cast as asked."""
        return self._cast(super().placeholder(target, args, kwargs))

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """Arguments in the asked precision, muted where a mask says so."""
        given = self._muted(n) if n.name in self.masks else super().fetch_args_kwargs_from_env(n)
        return given if self.dtype is None else tree_map(self._precision, given)

    def _muted(self, n: fx.Node) -> Any:
        muted: dict[fx.Node, Tensor] = {}
        for mask in self.masks[n.name]:
            source = next(a for a in n.all_input_nodes if a.name == mask.data)
            value = muted.get(source, self.env[source])
            sizes = [-1 if k == mask.axis else 1 for k in range(value.dim())]
            heard = torch.from_numpy(mask.heard).to(value.dtype).reshape(sizes)
            muted[source] = value * heard
        lookup = {**self.env, **muted}
        return fx.node.map_arg(n.args, lookup.__getitem__), fx.node.map_arg(n.kwargs, lookup.__getitem__)

    def run_node(self, n: fx.Node) -> Any:
        """One node; its value is remembered where it is wanted."""
        value = self._normalised(n, self.anew[n.name]) if n.name in self.anew else super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = self._cast(value)
            if self.stop_early and len(self.values) == len(self.wanted):
                raise AllSeen
        return value

    def _normalised(self, n: fx.Node, anew: Anew) -> Tensor:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        assert isinstance(n.target, torch._ops.OpOverload)
        names = [argument.name for argument in n.target._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        data = given["input"]
        for axis, index in anew.kept.items():
            given["input"] = given["input"].index_select(axis, index)
        first = min(anew.kept)
        for key in () if "running_mean" in names else ("weight", "bias"):  # a batch norm's lie across
            if isinstance(given.get(key), Tensor):
                offset = (
                    data.dim() - given[key].dim()
                    if given[key].dim() > 1 or first == data.dim() - 1
                    else first
                )
                for axis, index in anew.kept.items():
                    given[key] = given[key].index_select(axis - offset, index)
        value: Tensor = n.target(**{**given, **anew.changes})
        for axis, index in anew.kept.items():
            shape = list(value.shape)
            shape[axis] = data.shape[axis]
            value = value.new_zeros(shape).index_copy(axis, index, value)
        return value


def run_in(
    module: fx.GraphModule,
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    weights: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Execute a traced module in another precision; weights are cast one by one, as they are read.

    Args:
        weights: in place of the module's own, by qualified name.
    """
    with torch.no_grad():
        return flatten_outputs(Interpreter(module, weights or {}, frozenset(), {}, dtype).run(*inputs))


def flatten_outputs(result: Any) -> tuple[Tensor, ...]:
    """Every tensor in a model's (possibly nested) result, in pytree order."""
    leaves, _ = torch.utils._pytree.tree_flatten(result)
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
