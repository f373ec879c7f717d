"""Which nodes of an ONNX file a mobile provider would take, and why not the others. Nothing is run.

The operations that CoreML and NNAPI take are read from the tables that come with onnxruntime;
those of XNNPACK stand below, from its documentation. A table is a promise of the provider's
authors: only a run on a phone proves the placement (see `edgeprune.stages.validate`). Conditions
that can be seen in the file are checked: fixed shapes, constant weights, two-dimensional
convolutions and pools. The others are listed as conditions.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLES = {
    "CoreML": "coreml_supported_mlprogram_ops.md",
    "CoreML (NeuralNetwork)": "coreml_supported_neuralnetwork_ops.md",
    "NNAPI": "nnapi_supported_ops.md",
}
_XNNPACK = {
    "AveragePool": "Only 2D Pool is supported.",
    "Clip": "Only behind a Conv or a pool, which it becomes a part of.",
    "Conv": "Only 2D Conv is supported. Weights and bias must be constant.",
    "ConvTranspose": "Only 2D ConvTranspose is supported. Weights and bias must be constant.",
    "Gemm": "Input B must be constant.",
    "MatMul": "Input B must be constant.",
    "MaxPool": "Only 2D Pool is supported.",
    "Relu": "Only behind a Conv or a pool, which it becomes a part of.",
    "Resize": "Only 2D and mode linear are supported.",
    "Softmax": "Only over the last axis.",
}
"""Source: onnxruntime's documentation of the XNNPACK provider, table of supported operators."""
_FLAT = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True, slots=True)
class Node:
    """One node under one provider.

    Attributes:
        name: the node's, or that of its first output.
        operation: what it does.
        taken: whether the provider would take it, as far as the file tells.
        reason: why not; '' if it would.
    """

    name: str
    operation: str
    taken: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Usability:
    """One file under one provider.

    Attributes:
        provider: CoreML, NNAPI, XNNPACK …
        nodes: in the order of the graph.
        partitions: stretches of neighbours in that order that the provider would take; each one
            costs a crossing to it and back.
        conditions: what its table demands of the operations beside, operation by operation.
    """

    provider: str
    nodes: tuple[Node, ...]
    partitions: int
    conditions: tuple[str, ...]

    @property
    def taken(self) -> int:
        """How many nodes it would take."""
        return sum(node.taken for node in self.nodes)

    @property
    def advice(self) -> str:
        """One sentence: use it, try it, or leave it."""
        share = self.taken / max(len(self.nodes), 1)
        if self.taken == 0:
            return "leave it: it would take nothing"
        if share == 1:
            return "use it: it would take every node"
        if self.partitions <= 3 and share >= 0.5:
            return f"try it: {self.partitions} stretches of nodes would run there, measure on the phone"
        return f"leave it: {self.partitions} stretches would go to and fro, the CPU is likely quicker"

    def reasons(self) -> dict[str, int]:
        """Why nodes stay on the CPU, with how many of them."""
        found: dict[str, int] = {}
        for node in self.nodes:
            if not node.taken:
                found[node.reason] = found.get(node.reason, 0) + 1
        return found


def usability(model: Path) -> tuple[Usability, ...]:
    """Hold a file against the tables of the mobile providers.

    Args:
        model: an ONNX file; weights beside it are not read.
    """
    import onnx

    loaded = onnx.load(model, load_external_data=False)
    with contextlib.suppress(Exception):  # shapes that cannot be told are told as not fixed
        loaded = onnx.shape_inference.infer_shapes(loaded)
    shapes = _shapes(loaded.graph)
    constants = {i.name for i in loaded.graph.initializer}
    constants |= {o for n in loaded.graph.node if n.op_type == "Constant" for o in n.output}
    nodes = [node for node in loaded.graph.node if node.op_type != "Constant"]
    found = []
    for provider, operations in {**_tables(), "XNNPACK": _XNNPACK}.items():
        judged = tuple(_judge(node, operations, shapes, constants, provider) for node in nodes)
        starts = [n.taken and (k == 0 or not judged[k - 1].taken) for k, n in enumerate(judged)]
        used = sorted({node.operation for node in judged if node.taken})
        conditions = tuple(f"{name}: {operations[name]}" for name in used if operations[name])
        found.append(Usability(provider, judged, sum(starts), conditions))
    return tuple(found)


def _judge(
    node: Any,
    operations: Mapping[str, str],
    shapes: Mapping[str, tuple[int | None, ...]],
    constants: set[str],
    provider: str,
) -> Node:
    def verdict(reason: str = "") -> Node:
        return Node(node.name or (node.output[0] if node.output else ""), node.op_type, not reason, reason)

    if node.domain not in ("", "ai.onnx") or node.op_type not in operations:
        return verdict(f"{provider} has no {node.op_type}")
    for name in [name for name in node.input if name and name not in constants]:
        shape = shapes.get(name)
        if shape is None or any(size is None for size in shape):
            return verdict("the shape of its input is not fixed")
    first = shapes.get(node.input[0]) if node.input else None
    words = operations[node.op_type]
    axes = 2 if first is None else len(first) - 2
    if node.op_type in _FLAT and axes != 2 and not (axes == 1 and "1D" in words):
        return verdict(f"{provider} takes {node.op_type} over pictures only, this one has {axes} axes")
    needs_constant = node.op_type in _WEIGHTED and "constant" in words and len(node.input) > 1
    if needs_constant and node.input[1] not in constants:
        return verdict("its weights are computed, not constant")
    return verdict()


def _shapes(graph: Any) -> dict[str, tuple[int | None, ...]]:
    """Shapes by tensor; None for a size that is not fixed."""
    return {
        value.name: tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _tables() -> dict[str, dict[str, str]]:
    """Operations and their conditions by provider, from the tables that onnxruntime ships."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "tools" / "mobile_helpers"
    found = {}
    for provider, name in _TABLES.items():
        path = folder / name
        if path.is_file():
            found[provider] = _table(path.read_text(encoding="utf-8"))
    return found


def _table(text: str) -> dict[str, str]:
    rows = (line.strip().split("|") for line in text.splitlines() if line.startswith("|ai.onnx:"))
    return {
        row[1].removeprefix("ai.onnx:"): row[2].replace("<br/>", " ").strip() for row in rows if len(row) == 4
    }
