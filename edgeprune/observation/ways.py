"""The way from the layers that make a group's units to what a reader hears of them.

A unit is made as a number z_k = p̃_k·x̃_k by each of K layers (one in a plain chain; all that write into
a residual stream), and heard as h = F(z_1 … z_K): activations, sums, averages over positions. A `Way` is
F: as a function, and as how much it can change: |F(z) − F(z′)| ≤ Σ_k steepness_k |z_k − z′_k| and
|F(0)| ≤ constant.

Activations are read from the graph however they are written: the binary step as a comparison with 0 that is
cast, as `where`, or as `heaviside`; soft clipping as the difference of two softplus functions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from edgeprune.graph.groups import Graph, Group, Node, Reader, Ref

Values = Mapping[str, Tensor]
Function = Callable[[Values], Tensor]
Scalar = Callable[[Tensor], Tensor]

PASSES = frozenset(
    (
        *("dropout", "clone", "contiguous", "alias", "detach", "detach_", "to", "_to_copy", "type_as"),
        *("flatten", "view", "reshape", "_unsafe_view", "permute", "transpose", "squeeze", "unsqueeze"),
    )
)
AVERAGES = frozenset(
    f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_") for rank in (1, 2, 3)
) | frozenset(("mean",))
CASTS = ("to", "_to_copy", "type_as")
CURVED = frozenset(
    (
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "sigmoid", "hardsigmoid"),
        *("softplus", "tanh", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "mish", "hardswish"),
        *("abs", "square", "exp", "erf", "sin", "cos", "sign", "log_sigmoid", "hardshrink", "softshrink"),
        *("threshold", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "neg"),
    )
)
"""Functions of one number each."""

ARITHMETIC: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How a reader hears a group's units.

    Attributes:
        makers: nodes of the layers whose values it hears, in order.
        steepness: of each.
        constant: |F(0)|.
        activations: names of what is applied on the way, each once; see `named`.
        function: F, elementwise, of each maker's values behind the batch norm that alone follows it; None
            where it is no function of one position.
        reason: why the steepness says nothing; '' where it does.
    """

    makers: tuple[str, ...]
    steepness: tuple[float, ...]
    constant: float
    activations: tuple[str, ...]
    function: Function | None
    reason: str = ""

    @property
    def stepped(self) -> bool:
        """Whether it is a binary step of one layer's values and nothing else."""
        return self.activations == ("step",) and len(self.makers) == 1


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A node's value as a function of the makers'."""

    steepness: dict[str, float]
    constant: float
    activations: tuple[str, ...]
    function: Function | None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    name: str
    source: str
    function: Scalar
    steepness: float
    at_zero: float


def way(graph: Graph, group: Group, reader: Reader) -> Way:
    """How `reader` hears the units of `group`."""
    found = _part(graph, frozenset(group.producers), reader.data, {})
    if found is None:
        return Way((), (), 0.0, (), None, "no layer of the group can be seen from its reader")
    makers = tuple(name for name in group.producers if name in found.steepness)
    return Way(
        makers,
        tuple(found.steepness[name] for name in makers),
        found.constant,
        found.activations,
        found.function,
        found.reason,
    )


def _part(graph: Graph, makers: frozenset[str], name: str, seen: dict[str, _Part | None]) -> _Part | None:
    """A node's value; None where no maker has a part in it."""
    if name not in seen:
        seen[name] = None  # graphs have no cycles; this only guards against one
        seen[name] = _seen(graph, makers, graph.nodes[name], seen)
    return seen[name]


def _seen(graph: Graph, makers: frozenset[str], node: Node, seen: dict[str, _Part | None]) -> _Part | None:
    if node.name in makers:
        return _Part({node.name: 1.0}, 0.0, (), lambda values: values[node.name])
    if node.operation in ("input", "weight", "output") or not graph.moves(node.name):
        return None
    curve = _curve(graph, node)
    if curve is not None:
        inner = _part(graph, makers, curve.source, seen)
        return None if inner is None else _bent(inner, curve)
    if node.operation in ("linear", "conv1d", "conv2d", "conv3d", "matmul", "bmm", "addmm"):
        return None  # another layer: what it says is not of this group
    sources = [source for source in node.sources() if graph.moves(source)]
    if node.operation == "batch_norm":
        maker = node["input"].name
        folded = maker in makers and len(graph.users(maker)) == 1
        inner = _part(graph, makers, maker, seen)
        return inner if folded or inner is None else _lost(inner, node)
    parts = [found for source in sources if (found := _part(graph, makers, source, seen)) is not None]
    if not parts:
        return None
    if node.operation == "add" and node.get("alpha", 1) == 1 and len(sources) == 2:
        return _sum(parts[0], parts[1]) if len(parts) == 2 else _lost(parts[0], node)
    if node.operation in PASSES and node.floating:
        return parts[0]
    if node.operation in AVERAGES and len(parts) == 1:
        padding = node.get("padding", 0)
        padded = any(padding) if isinstance(padding, Iterable) else bool(padding)
        return _lost(parts[0], node) if padded and parts[0].constant else parts[0]
    if node.operation == "cat" and len(parts) == 1:
        return parts[0]
    lost = _lost(_merged(parts), node)
    return replace(lost, function=_arithmetic(node, parts)) if node.operation in ARITHMETIC else lost


def _arithmetic(node: Node, parts: list[_Part]) -> Function | None:
    """Sum, product or quotient of parts and numbers, as a function."""
    functions = [part.function for part in parts]
    given = [node["self"], node["other"]]
    if None in functions or node.get("alpha", 1) != 1 or node.get("rounding_mode") is not None:
        return None
    if sum(isinstance(value, Ref) for value in given) != len(parts):
        return None
    apply = ARITHMETIC[node.operation]

    def combined(values: Values) -> Tensor:
        found = iter([function(values) for function in functions if function is not None])
        left, right = (next(found) if isinstance(value, Ref) else value for value in given)
        return apply(left, right)

    return combined


def _lost(part: _Part, node: Node) -> _Part:
    what = f"{node.where} stands between its layers and its readers"
    return _Part(part.steepness, part.constant, part.activations, None, part.reason or what)


def _merged(parts: list[_Part]) -> _Part:
    merged = parts[0]
    for part in parts[1:]:
        merged = _sum(merged, part)
    return merged


def _sum(first: _Part, second: _Part) -> _Part:
    steepness = dict(first.steepness)
    for name, value in second.steepness.items():
        steepness[name] = steepness.get(name, 0.0) + value
    one, two = first.function, second.function
    return _Part(
        steepness,
        first.constant + second.constant,
        tuple(dict.fromkeys((*first.activations, *second.activations))),
        None if one is None or two is None else lambda values: one(values) + two(values),
        first.reason or second.reason,
    )


def _bent(inner: _Part, curve: _Curve) -> _Part:
    """Behind an activation φ with slope L: |φ(z)| ≤ |φ(0)| + L|z|."""
    function = inner.function
    bounded = 0.0 if math.isinf(curve.steepness) else curve.steepness * inner.constant
    return _Part(
        {name: value * curve.steepness for name, value in inner.steepness.items()},
        abs(curve.at_zero) + bounded,
        tuple(dict.fromkeys((*inner.activations, curve.name))),
        None if function is None else lambda values: curve.function(function(values)),
        inner.reason,
    )


def _curve(graph: Graph, node: Node) -> _Curve | None:
    """The activation that a node applies to one other, however it is written."""
    return _step(graph, node) or _soft_clip(graph, node) or _plain(graph, node)


def _step(graph: Graph, node: Node) -> _Curve | None:
    """[z ≥ 0] or [z > 0]: a comparison that is cast or chosen by, or heaviside."""
    if node.operation == "heaviside":
        source = node["self"]
        if graph.moves(node["values"].name) or not graph.moves(source.name):
            return None
        return _Curve("step", source.name, lambda z: (z >= 0).to(z), math.inf, 1.0)
    if node.operation in CASTS and node.floating:
        condition = node["self"]
    elif node.operation == "where" and (node["self"], node["other"]) == (1.0, 0.0):
        condition = node["condition"]
    else:
        return None
    test = graph.nodes[condition.name]
    if test.operation not in ("ge", "gt") or test["other"] != 0 or not isinstance(test["self"], Ref):
        return None
    closed = test.operation == "ge"
    return _Curve(
        "step", test["self"].name, lambda z: (z >= 0 if closed else z > 0).to(z), math.inf, float(closed)
    )


def _soft_clip(graph: Graph, node: Node) -> _Curve | None:
    """(1/α) ln((1 + e^αz)/(1 + e^α(z − 1))) as softplus(z) − softplus(z − 1), each with β = α.

    Its slope is σ(αz) − σ(α(z − 1)), largest at z = ½: tanh(α/4).
    """
    if node.operation != "sub" or node.get("alpha", 1) != 1:
        return None
    refs = (node["self"], node["other"])
    if not all(isinstance(ref, Ref) for ref in refs):
        return None
    high, low = (graph.nodes[ref.name] for ref in refs)
    if high.operation != "softplus" or low.operation != "softplus" or high["beta"] != low["beta"]:
        return None
    moved = graph.nodes[low["self"].name]
    shift = {"sub": -1.0, "add": 1.0}.get(moved.operation, 0.0) * float(moved.get("alpha", 1))
    other = moved.get("other")
    if isinstance(other, Ref) or other is None or shift * float(other) != -1.0:
        return None
    if moved["self"] != high["self"] or high["threshold"] != low["threshold"]:
        return None
    alpha = float(high["beta"])
    return _Curve(
        "soft_clip",
        high["self"].name,
        lambda z: F.softplus(z, alpha) - F.softplus(z - 1, alpha),
        math.tanh(alpha / 4),
        math.log(2 / (1 + math.exp(-alpha))) / alpha,
    )


def _plain(graph: Graph, node: Node) -> _Curve | None:
    """A function of the library, with the numbers it was called with."""
    if node.operation not in CURVED:
        return None
    sources = node.sources()
    if len(sources) != 1:
        return None
    call = _called(graph, node.name, sources[0])
    steepness, at_zero = _known(node)
    return _Curve(named(node), sources[0], call, steepness, at_zero)


def named(node: Node) -> str:
    """The name of an activation; a clamp from 0 is the ReLU that it is."""
    if node.operation == "clamp_min" and node.get("min") == 0:
        return "relu"
    low = {"hardtanh": "min_val", "clamp": "min"}.get(node.operation)
    high = {"hardtanh": "max_val", "clamp": "max"}.get(node.operation)
    if low and high and node.get(low) == 0:
        top = node.get(high)
        return "relu" if top is None else "relu6" if top == 6 else "clip"
    return node.operation


def _known(node: Node) -> tuple[float, float]:
    """Largest slope and value at 0; infinitely steep where nothing is known."""
    if named(node) in ("relu", "relu6", "clip", "tanh"):
        return 1.0, 0.0
    if node.operation == "sigmoid":
        return 0.25, 0.5
    if node.operation == "hardsigmoid":
        return 1 / 6, 0.5
    if node.operation == "softplus":
        return 1.0, math.log(2) / float(node["beta"])
    if node.operation == "leaky_relu":
        return max(1.0, abs(float(node["negative_slope"]))), 0.0
    return math.inf, 0.0


def _called(graph: Graph, name: str, source: str) -> Scalar:
    """The operation itself, on other numbers."""
    node = next(n for n in graph.module.graph.nodes if n.name == name)
    assert callable(node.target)

    def apply(z: Tensor) -> Tensor:
        def value(argument: fx.Node) -> Tensor:
            return z if argument.name == source else torch.zeros(())

        target = node.target
        assert callable(target)
        found: Tensor = target(
            *fx.node.map_arg(node.args, value), **dict(fx.node.map_arg(node.kwargs, value))
        )
        return found

    return apply


__all__ = ["Way", "named", "way"]
