from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import UsageError
from edgeprune.stages.bisect import (
    first_group,
    first_parting,
    with_intermediate_outputs,
    without_weights,
)

NAMES = [f"g{k}" for k in range(16)]


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("bad", range(1, 17))
def test_a_step_is_found_wherever_it_is(bad: int, every: bool) -> None:
    found = first_group(NAMES, lambda k: 1.0 if k >= bad else 0.01 * k, 0.5, every=every)
    assert (found.group, found.after) == (NAMES[bad - 1], 1.0)
    assert found.before <= 0.5
    assert every or len(found.tried) <= 6


def test_an_error_that_falls_again_is_crossed_all_the_same() -> None:
    errors = [0, 0.1, 0.9, 0.2, 0.2, 0.8, 0.9]
    found = first_group(NAMES[:6], lambda k: errors[k], 0.5)
    assert found.before <= 0.5 < found.after
    assert first_group(NAMES[:6], lambda k: errors[k], 0.5, every=True).group == "g1"


@pytest.mark.parametrize("every", [True, False])
def test_a_limit_that_holds_is_said(every: bool) -> None:
    assert first_group(NAMES, lambda k: 0.1, 0.5, every=every).group is None
    assert first_group([], lambda k: 0.1, 0.5, every=every).group is None


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "shape": np.array([-1, 3], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "second"),
        helper.make_node("Reshape", ["b", "shape"], ["c"], "third"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_file_is_opened(model: Path, tmp_path: Path) -> None:
    made = with_intermediate_outputs(model, ["b", "a", "nowhere"], tmp_path / "o.onnx")
    assert made == ("a", "b")
    opened = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(opened)
    assert [value.name for value in opened.graph.output] == ["a", "b"]
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(UsageError, match="no ONNX model"):
        with_intermediate_outputs(tmp_path / "bad.onnx", ["a"], tmp_path / "o.onnx")


@pytest.mark.parametrize("wrong", ["off", "nan", "shape"])
def test_the_first_node_that_parts_is_named(model: Path, wrong: str) -> None:
    right = np.ones((4, 3))
    off = {"off": right + 0.1, "nan": right * np.nan, "shape": np.ones((2, 6))}[wrong].astype(np.float32)
    found = first_parting(model, ["a", "b"], [right, off], {"a": right, "b": right}, 1e-3)
    assert (found.node, found.operation, found.output) == ("second", "Relu", "b")
    agreed = first_parting(model, ["a", "b"], [right, right], {"a": right, "b": right}, 1e-3)
    assert agreed.node is None
    assert agreed.compared == ("a", "b")


def test_weights_become_noise_of_the_same_kind(model: Path, tmp_path: Path) -> None:
    without_weights(model, tmp_path / "n.onnx", 0)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer}
        for p in (model, tmp_path / "n.onnx")
    )
    assert not np.isclose(before["w"], after["w"]).any()
    assert after["w"].shape == (2, 3)
    np.testing.assert_array_equal(before["shape"], after["shape"])
