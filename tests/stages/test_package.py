"""Packages for phones: real conversions, checked files, and the tables of the providers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from edgeprune.cli.measure import package as command
from edgeprune.errors import BrokenPromise, UsageError
from edgeprune.runtimes.reference import file_outputs
from edgeprune.stages import package as stage
from edgeprune.stages.package import package
from edgeprune.verdict.usability import Node, Usability, usability

INPUTS = (np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32),)


def net(path: Path, *, batch: int | str = "batch", axes: int = 2, odd: bool = False) -> Path:
    """Conv, ReLU, mean over the picture; `odd` adds an Einsum, which no phone takes."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((5, 3, *[3] * axes)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="mean"),
    ]
    if odd:
        nodes.insert(2, helper.make_node("Einsum", ["r"], ["e"], name="odd", equation="bchw->bchw"))
        nodes[3].input[0] = "e"
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *[8] * axes])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [batch, 5, *[1] * axes])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_package_holds_what_a_phone_needs(tmp_path: Path) -> None:
    made = package(net(tmp_path / "m.onnx"), tmp_path / "phone", INPUTS, batch=2, half=True)
    names = [item.path.name for item in made.files]
    assert names == ["m.onnx", "m.ort", "m.config", "m.fp16.onnx"]
    fixed, small, config, half = made.files
    graph = onnx.load(fixed.path).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert small.difference == pytest.approx(0, abs=1e-6)
    assert half.difference is not None
    assert 0 < half.difference < 0.01  # float16 has eleven bits
    text = config.path.read_text()
    assert "GlobalAveragePool" in text
    assert str(tmp_path) not in text  # onnxruntime writes where the model lay
    (output,) = file_outputs(small.path, INPUTS, tmp_path / "again")
    assert output.shape == (4, 5, 1, 1)


def test_weights_can_lie_beside(tmp_path: Path) -> None:
    model = net(tmp_path / "m.onnx")
    loaded = onnx.load(model)
    wide = np.ones((700, 3, 3, 3), np.float32)
    loaded.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "w"))
    loaded.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 700
    onnx.save(loaded, model)
    made = package(model, tmp_path / "phone", INPUTS, external=True)
    assert (tmp_path / "phone" / "m.onnx.data").stat().st_size >= wide.nbytes
    assert made.files[0].size_bytes > wide.nbytes


def test_a_wrong_conversion_is_not_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: Path, folder: Path, work: Path) -> tuple[Path, Path]:
        loaded = onnx.load(model)
        weight = numpy_helper.to_array(loaded.graph.initializer[0]) * 1.01
        loaded.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "w"))
        onnx.save(loaded, folder / "m2.onnx")
        return folder / "m2.onnx", folder / "m2.onnx"

    monkeypatch.setattr(stage, "_converted", other)
    with pytest.raises(BrokenPromise, match="the conversion got it wrong"):
        package(net(tmp_path / "m.onnx"), tmp_path / "phone", INPUTS)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="is no ONNX model"):
        package(tmp_path / "m.onnx", tmp_path / "phone", INPUTS)
    with pytest.raises(UsageError, match="would replace the model itself"):
        package(net(tmp_path / "n.onnx"), tmp_path, INPUTS)


def test_the_command(tmp_path: Path) -> None:
    model = net(tmp_path / "m.onnx")
    done = CliRunner().invoke(command, [str(model), "-o", str(tmp_path / "phone")], catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("m.ort:", "outputs differ by at most", "CoreML", "NNAPI", "XNNPACK", "3 of 3"):
        assert words in done.output


# ------------------------------------------------------------------------------------ usability


def by_provider(model: Path) -> dict[str, Usability]:
    return {found.provider: found for found in usability(model)}


def test_a_fixed_shape_is_taken_and_a_free_one_is_not(tmp_path: Path) -> None:
    fixed, free = by_provider(net(tmp_path / "a.onnx", batch=1)), by_provider(net(tmp_path / "b.onnx"))
    for provider in ("CoreML", "NNAPI"):
        assert (fixed[provider].taken, fixed[provider].partitions) == (3, 1)
        assert fixed[provider].advice == "use it: it would take every node"
        assert free[provider].taken == 0
        assert free[provider].reasons() == {"the shape of its input is not fixed": 3}
        assert free[provider].advice == "leave it: it would take nothing"


def test_an_operation_that_is_not_taken_parts_the_graph(tmp_path: Path) -> None:
    found = by_provider(net(tmp_path / "m.onnx", batch=1, odd=True))["NNAPI"]
    assert [node.taken for node in found.nodes] == [True, True, False, True]
    assert found.nodes[2].reason == "NNAPI has no Einsum"
    assert found.partitions == 2
    assert found.advice.startswith("try it: 2 stretches")


def test_a_line_is_no_picture(tmp_path: Path) -> None:
    found = by_provider(net(tmp_path / "m.onnx", batch=1, axes=1))
    assert found["NNAPI"].nodes[0].reason == "NNAPI takes Conv over pictures only, this one has 1 axes"
    assert found["CoreML"].nodes[0].taken  # its table says 1D/2D


def test_computed_weights_are_not_taken(tmp_path: Path) -> None:
    model = net(tmp_path / "m.onnx", batch=1)
    loaded = onnx.load(model)
    loaded.graph.node.insert(0, helper.make_node("Abs", ["w"], ["v"], name="abs"))
    loaded.graph.node[1].input[1] = "v"
    onnx.save(loaded, model)
    found = by_provider(model)["NNAPI"]
    assert found.nodes[1].reason == "its weights are computed, not constant"


def test_going_to_and_fro_is_advised_against() -> None:
    nodes = tuple(Node(str(k), "X", k % 2 == 0, "" if k % 2 == 0 else "no") for k in range(9))
    found = Usability("P", nodes, 5, ())
    assert found.advice == "leave it: 5 stretches would go to and fro, the CPU is likely quicker"


def test_the_tables_of_onnxruntime_are_there() -> None:
    from edgeprune.verdict.usability import _tables

    tables = _tables()
    assert set(tables) == {"CoreML", "CoreML (NeuralNetwork)", "NNAPI"}
    assert all("Conv" in table for table in tables.values())
