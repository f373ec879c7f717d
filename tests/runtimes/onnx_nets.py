"""Tiny ONNX models for the tests of the runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.profiles import Target
from edgeprune.tables import read_table

IN, HIDDEN, OUT = 6, 8, 3


def linear_relu(path: Path, *, seed: int = 0, batch: int | str = "batch", scale: float = 1.0) -> Path:
    """y = Relu(x A) B · scale, x float32 (batch, 6), y float32 (batch, 3)."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((IN, HIDDEN)).astype(np.float32)
    b = (generator.standard_normal((HIDDEN, OUT)) * scale).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    return save(path, nodes, [("x", TensorProto.FLOAT, [batch, IN])], [batch, OUT], {"a": a, "b": b})


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[tuple[str, int, list[int | str]]],
    output: list[int | str],
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(*described) for described in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def expected(inputs: np.ndarray, *, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """What `linear_relu` computes, in float64."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((IN, HIDDEN)).astype(np.float32).astype(np.float64)
    b = (generator.standard_normal((HIDDEN, OUT)) * scale).astype(np.float32).astype(np.float64)
    return np.maximum(inputs.astype(np.float64) @ a, 0) @ b


def samples(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, IN)).astype(np.float32)


def target(**tables: Any) -> Target:
    """A target of one thread that measures little."""
    measure = {"launches_min": 2, "launches_max": 2, "pairs": 8, "warm_up": 2, "limit_s": 60}
    content = {
        "name": "here",
        "grid": {"conv": 4},
        "threads": {"intra": 1},
        **tables,
        "measure": measure | tables.get("measure", {}),
    }
    return read_table(Target, content, "here")


def conv_net(path: Path, *, seed: int = 0, channels: int = 16) -> Path:
    """Conv, ReLU, depthwise conv, ReLU, mean over the picture, linear: x float32 (n, 3, 16, 16), y (n, 4)."""
    generator = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "a": weight(channels, 3, 3, 3),
        "b": weight(channels, 1, 3, 3),
        "c": weight(channels, 4),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "b"], ["h3"], pads=[1, 1, 1, 1], group=channels),
        helper.make_node("Relu", ["h3"], ["h4"]),
        helper.make_node("GlobalAveragePool", ["h4"], ["h5"]),
        helper.make_node("Flatten", ["h5"], ["h6"]),
        helper.make_node("MatMul", ["h6", "c"], ["y"]),
    ]
    return save(path, nodes, [("x", TensorProto.FLOAT, ["n", 3, 16, 16])], ["n", 4], weights)
