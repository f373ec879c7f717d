"""Products of two tensors: matmul, bmm, mm, einsum, addmm, baddbmm.

Where one factor does not depend on the model's inputs it is a weight: the axis that is summed over
reads channels, its other axes make channels. Two activations are only tied to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions import curves
from edgeprune.functions.forms import (
    Affine,
    Application,
    Axis,
    Chain,
    Dense,
    Elementwise,
    Part,
    Product,
    Scene,
    Structural,
)
from edgeprune.graph.groups import Alive, Axes, Contact, Flow, Ints, Node, Ref
from edgeprune.graph.narrowed_attention import narrow_attention
from edgeprune.ops.operation import Operation, Sizes, constant
from edgeprune.ops.weight_norm import is_spectral, restated_sigma


def contract(node: Node, flow: Flow, first: tuple[Ref, int], second: tuple[Ref, int]) -> None:
    """Two axes that are multiplied and summed over; the readers of removed channels hear zeros."""
    flow.labels.tie(flow.of(first[0])[first[1]], flow.of(second[0])[second[1]])
    if node.operation in VECTORS and not flow.graph.moves(node.name):  # such a product is part of a norm
        flow.labels.pin(flow.of(first[0])[first[1]], f"normalised over by {node.where}")
        return
    data, weight = (second, first) if flow.graph.moves(second[0].name) else (first, second)
    if flow.graph.moves(first[0].name):
        data, weight = first, second
    if not flow.free(flow.of(data[0])[data[1]]):
        return
    fixed = not flow.graph.moves(weight[0].name)
    argument, axis = flow.origin(*weight) if fixed else weight
    flow.contacts.append(Contact("read", node.name, argument, axis, data[0].name, data[1], fixed))


def produce(node: Node, flow: Flow, ref: Ref, axis: int) -> None:
    """An axis that a product hands on: new channels where it is a weight's."""
    if not flow.graph.moves(ref.name) and len(flow.of(ref)[axis]) > 1:
        argument, place = flow.origin(ref, axis)
        flow.contacts.append(Contact("produce", node.name, argument, place))


def broadcast(node: Node, flow: Flow, first: Ints | None, second: Ints | None, size: int) -> Ints:
    """An axis that both factors share without summing over it."""
    found = [axis for axis in (first, second) if axis is not None and (len(axis) == size or size == 1)]
    for axis in (first, second):
        if axis is not None and len(axis) == 1 and size != 1:
            flow.labels.pin(axis, f"broadcast by {node.where}")
    if len(found) == 2:
        flow.labels.tie(found[0], found[1])
    return found[0] if found else flow.zeros(size)


VECTORS = frozenset(("mv", "dot", "vdot"))


class Matmul(Operation):
    """matmul, mm, bmm, baddbmm and addmm, of any rank and with broadcast leading axes.

    The products inside a spectral norm σ = uᵀ W v let channels pass: where W loses rows or columns, u is
    scaled so that σ stays what it was. Other products of vectors that do not depend on the inputs normalise.
    """

    name: ClassVar[str] = "matmul"
    handles: ClassVar[tuple[str, ...]] = ("matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm")

    def label(self, node: Node, flow: Flow) -> Axes:
        assert node.shape is not None
        left, right = _factors(node)
        x, y = flow.of(left), flow.of(right)
        inner = 0 if len(y) == 1 else len(y) - 2
        if is_spectral(flow.graph, node):
            flow.labels.tie(x[-1], y[inner])
            return x[:-1]
        contract(node, flow, (left, len(x) - 1), (right, inner))
        heads = len(node.shape) - (len(x) > 1) - (len(y) > 1)
        result = []
        for k in range(heads):
            one, two = k - heads + len(x) - 2, k - heads + len(y) - 2
            a = x[one] if one >= 0 else None
            b = y[two] if two >= 0 else None
            result.append(broadcast(node, flow, a, b, node.shape[k]))
        if len(x) > 1:
            result.append(x[-2])
            produce(node, flow, left, len(x) - 2)
        if len(y) > 1:
            result.append(y[-1])
            produce(node, flow, right, len(y) - 1)
        if node.operation in ("addmm", "baddbmm"):
            _add(node, flow, result)
        return tuple(result)

    def restate(self, node: Node, alive: Alive, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return restated_sigma(node, alive, weights)

    def macs(self, node: Node, sizes: Sizes) -> int:
        left, _ = _factors(node)
        return math.prod(sizes(node.name)) * (sizes(left.name) or (1,))[-1]

    def form(self, node: Node, scene: Scene) -> Application | Chain:
        left, right = _factors(node)
        weight = scene.constants.get(right.name)
        if weight is None and left.name not in scene.constants:
            return self._both(node, scene, left, right)
        if weight is None or weight.dim() != 2 or left.name in scene.constants:
            raise UnsupportedOperation(
                f"{node.where}: a product with a weight on the left or of several axes"
            )
        bias = None
        if node.operation == "addmm":
            if node["alpha"] != 1 or node["beta"] != 1:
                raise UnsupportedOperation(f"{node.where}: a scaled addmm")
            bias = constant(node, scene, "self")
        return Application(Affine.given(Dense(), weight.transpose(0, 1), bias), (left.name,))

    @staticmethod
    def _both(node: Node, scene: Scene, left: Ref, right: Ref) -> Chain:
        """Both factors depend on the inputs: products of elements, then a sum."""
        ranks = len(scene.shapes[left.name]), len(scene.shapes[right.name])
        if node.operation not in ("matmul", "bmm") or ranks[0] != ranks[1] or ranks[0] < 3:
            raise UnsupportedOperation(f"{node.where}: a product of two tensors that depend on the inputs")
        axes = tuple((right.name, k) for k in range(ranks[1]))
        turned = Structural.moving(lambda x: x.transpose(-1, -2))
        swapped = (*axes[:-2], axes[-1], axes[-2])
        parts = Part("turned", Application(turned, (right.name,)), swapped)
        own: tuple[Axis, ...] = tuple((left.name, k) for k in range(ranks[0]))
        return Chain(
            (parts, *contracted("", left.name, own, ".turned", swapped, 1.0, scene.shapes[left.name][-1]))
        )


def contracted(
    name: str, left: str, own: tuple[Axis, ...], right: str, other: tuple[Axis, ...], scale: float, inner: int
) -> tuple[Part, ...]:
    """Steps of scale · A Bᵀ over the last axes: A (…, t, k), B (…, s, k) to (…, t, s).

    Args:
        name: of the steps.
        own: what the axes of A are left with.
        other: the same for B.
        inner: k.
    """
    wide = Structural.moving(lambda x: x.unsqueeze(-2))
    high = Structural.moving(lambda x: x.unsqueeze(-3))
    narrow = Structural.moving(lambda x: x.squeeze(-1))
    total = Affine.given(Dense(), torch.full((1, inner), scale, dtype=torch.float64))
    met = (*own[:-1], other[-2])
    return (
        Part(f"{name}left", Application(wide, (left,)), (*own[:-1], None, own[-1])),
        Part(f"{name}right", Application(high, (right,)), (*other[:-2], None, *other[-2:])),
        Part(f"{name}each", Application(Product(), (f".{name}left", f".{name}right")), (*met, own[-1])),
        Part(f"{name}sum", Application(total, (f".{name}each",)), (*met, None)),
        Part(f"{name}product", Application(narrow, (f".{name}sum",)), met),
    )


def _factors(node: Node) -> tuple[Ref, Ref]:
    for first, second in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("self", "other")):
        if first in node.arguments and second in node.arguments:
            return node[first], node[second]
    for second in ("vec", "tensor"):
        if second in node.arguments:
            return node["self"], node[second]
    raise LookupError(f"{node.name} has unknown factors")


def _add(node: Node, flow: Flow, result: list[Ints]) -> None:
    """The summand of addmm and baddbmm meets the product element by element."""
    added = flow.of(node["self"])
    for axis, met in zip(reversed(added), reversed(result), strict=False):
        if len(axis) == len(met):
            flow.labels.tie(axis, met)
        else:
            flow.labels.pin(axis, f"broadcast by {node.where}")


class Einsum(Operation):
    """einsum of one or two tensors; letters that occur once or in both, an ellipsis in front."""

    name: ClassVar[str] = "einsum"
    handles: ClassVar[tuple[str, ...]] = ("einsum",)

    def label(self, node: Node, flow: Flow) -> Axes:
        assert node.shape is not None
        refs: list[Ref] = list(node["tensors"])
        terms, made = _terms(str(node["equation"]), [len(flow.of(ref)) for ref in refs])
        if len(refs) > 2 or any(len(set(term)) != len(term) for term in terms):
            raise LookupError(f"the einsum {node['equation']}")
        where = {
            letter: [
                (ref, term.index(letter)) for ref, term in zip(refs, terms, strict=True) if letter in term
            ]
            for letter in dict.fromkeys(letter for term in terms for letter in term)
        }
        result: dict[str, Ints] = {}
        for letter, places in where.items():
            axes = [flow.of(ref)[axis] for ref, axis in places]
            if letter in made:
                size = node.shape[made.index(letter)]
                result[letter] = broadcast(node, flow, axes[0], axes[1] if len(axes) > 1 else None, size)
                if len(axes) == 1 and len(refs) == 2:
                    produce(node, flow, *places[0])
            elif len(places) == 2 and len(axes[0]) == len(axes[1]):
                contract(node, flow, places[0], places[1])
            else:
                flow.pin(axes, f"summed over by {node.where}")
        return tuple(result[letter] for letter in made)

    def macs(self, node: Node, sizes: Sizes) -> int:
        refs = list(node["tensors"])
        terms, _ = _terms(str(node["equation"]), [len(sizes(ref.name)) for ref in refs])
        extent: dict[str, int] = {}
        for ref, term in zip(refs, terms, strict=True):
            for letter, size in zip(term, sizes(ref.name), strict=True):
                extent[letter] = max(size, extent.get(letter, 1))
        return math.prod(extent.values())


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; an ellipsis becomes digits, aligned to the right."""
    given, arrow, made = equation.replace(" ", "").partition("->")
    terms, widest = [], 0
    for term, rank in zip(given.split(","), ranks, strict=True):
        hidden = rank - len(term.replace("...", "")) if "..." in term else 0
        widest = max(widest, hidden)
        terms.append(term.replace("...", "".join(chr(0x2460 + 19 - k) for k in reversed(range(hidden)))))
    dots = "".join(chr(0x2460 + 19 - k) for k in reversed(range(widest)))
    if not arrow:
        letters = sorted(
            {c for term in terms for c in term if sum(t.count(c) for t in terms) == 1 and c not in dots}
        )
        return terms, dots + "".join(letters)
    return terms, made.replace("...", dots)


SHARES = (-0.1, 1.1)
"""Shares lie between 0 and 1; the room is for a runtime, which rounds them. Nothing is cut off."""


class Attention(Operation):
    """scaled_dot_product_attention: heads hang together; their width is kept, for it sets the scale.

    Query, key and value are (…, heads, positions, width); with grouped queries one head of the keys
    serves several of the queries.
    """

    name: ClassVar[str] = "attention"
    handles: ClassVar[tuple[str, ...]] = ("scaled_dot_product_attention",)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.MultiheadAttention,)

    def label(self, node: Node, flow: Flow) -> Axes:
        query, key, value = (flow.of(node[name]) for name in ("query", "key", "value"))
        flow.labels.tie(query[-1], key[-1])
        flow.pin((query[-1], key[-1]), f"the width of a head of {node.where}, which sets its scale")
        flow.labels.tie(key[-2], value[-2])
        flow.pin((key[-2], value[-2]), f"attended over by {node.where}")
        for k in range(len(query) - 2):
            for other in (key[k], value[k]):
                if len(other) == len(query[k]):
                    flow.labels.tie(query[k], other)
                elif node.get("enable_gqa") and len(query[k]) % len(other) == 0:
                    shared = torch.from_numpy(other).repeat_interleave(len(query[k]) // len(other)).numpy()
                    flow.labels.tie(query[k], shared)
                else:
                    flow.pin((query[k], other), f"broadcast by {node.where}")
        if isinstance(node.get("attn_mask"), Ref):
            self._mask(node, flow, query, key)
        return (*query[:-1], value[-1])

    @staticmethod
    def _mask(node: Node, flow: Flow, query: Axes, key: Axes) -> None:
        mask = flow.of(node["attn_mask"])
        met = (*query[:-1], key[-2])
        for axis, other in zip(reversed(mask), reversed(met), strict=False):
            if len(axis) == len(other):
                flow.labels.tie(axis, other)
            else:
                flow.labels.pin(axis, f"broadcast by {node.where}")

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        narrow_attention(module)

    def form(self, node: Node, scene: Scene) -> Chain:
        """Scores, e^score, their sum, its inverse, shares, and the values' averages, step by step."""
        query, key, value = (node[name].name for name in ("query", "key", "value"))
        shapes = [scene.shapes[name] for name in (query, key, value)]
        if node.get("is_causal") or _hides(node, scene) or len({shape[:-2] for shape in shapes}) != 1:
            raise UnsupportedOperation(
                f"{node.where}: attention with a mask or with shared heads has no form"
            )
        width, positions = shapes[0][-1], shapes[1][-2]
        given = node.get("scale")
        scale = 1 / math.sqrt(width) if given is None else float(given)
        q, k, v = (
            tuple((n, i) for i in range(len(s))) for n, s in zip((query, key, value), shapes, strict=True)
        )
        scores: tuple[Axis, ...] = (*q[:-1], k[-2])
        level = (*scores[:-1], None)
        ones = Affine.given(Dense(), torch.ones((1, positions), dtype=torch.float64))
        turned = Structural.moving(lambda x: x.transpose(-1, -2))
        swapped = (*v[:-2], v[-1], v[-2])
        return Chain(
            (
                *contracted("score_", query, q, key, k, scale, width),
                Part("exp", Application(Elementwise(curves.exp()), (".score_product",)), scores),
                Part("total", Application(ones, (".exp",)), level),
                Part("inverse", Application(Elementwise(curves.reciprocal()), (".total",)), level),
                Part("ratio", Application(Product(), (".exp", ".inverse")), scores),
                Part("share", Application(Elementwise(curves.clamp(*SHARES)), (".ratio",)), scores),
                Part("turned", Application(turned, (value,)), swapped),
                *contracted("", ".share", scores, ".turned", swapped, 1.0, positions),
            )
        )

    def macs(self, node: Node, sizes: Sizes) -> int:
        query, key, value = (sizes(node[name].name) for name in ("query", "key", "value"))
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _hides(node: Node, scene: Scene) -> bool:
    """Whether an attention mask changes anything."""
    given = node.get("attn_mask")
    if given is None:
        return False
    mask = scene.constants.get(given.name) if isinstance(given, Ref) else None
    # one number for all is no mask: shares do not change when all scores are moved alike
    return mask is None or bool((mask != mask.reshape(-1)[0]).any())


__all__ = ["Attention", "Einsum", "Matmul", "contract", "contracted", "produce"]
