from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import StorageError
from edgeprune.stages.simplify import CHILD, simplify

SHAPE = (3, 4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """y = relu(x + 1) with a constant that can be folded and an identity that can go."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Mul", ["a", "b"], ["folded"]),
        helper.make_node("Add", ["same", "folded"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    weights = [numpy_helper.from_array(random.normal(size=SHAPE).astype(np.float32), name) for name in "ab"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    path = tmp_path / "exported.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def onnxsim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts another simplifier in the place of the real one, which the child imports."""

    def put(body: str) -> None:
        folder = tmp_path / "fake"
        folder.mkdir()
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        (folder / "onnxsim.py").write_text(
            f"import os, sys, time\nimport onnx\ndef simplify(model):\n{lines}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return put


def run(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def operations(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_file_is_simplified_and_computes_the_same(source: Path, tmp_path: Path) -> None:
    before, target = source.read_bytes(), tmp_path / "final.onnx"
    result = simplify(source, target, 120.0)
    assert (result.path, result.warning) == (target, "")
    assert operations(target) == ["Add", "Relu"]
    np.testing.assert_array_equal(run(target), run(source))
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported.onnx", "final.onnx"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.abort()", "crashed with signal 6"),
        ("os.kill(os.getpid(), 11)", "crashed with signal 11"),
        ("open(sys.argv[2], 'wb').write(b'half a f')\nos.abort()", "crashed with signal 6"),
        ("raise ValueError('no such operator')", "failed: ….*ValueError: no such operator"),
        ("sys.exit(3)", "failed"),
        ("os._exit(0)", "failed"),
        ("return onnx.ModelProto(), True", "failed: ….*ir_version"),
        ("model.graph.node.pop()\nreturn model, True", "failed: …"),
        ("return None, False", "failed: ….*"),
        ("raise RuntimeError('x' * 100_000)", "failed: …x{200,300}"),
    ],
)
def test_a_simplifier_that_fails_leaves_the_file_as_it_was(
    source: Path,
    tmp_path: Path,
    onnxsim: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    body: str,
    said: str,
) -> None:
    onnxsim(body)
    target = tmp_path / "final.onnx"
    with caplog.at_level(logging.WARNING, logger="edgeprune"):
        result = simplify(source, target, 120.0)
    assert target.read_bytes() == source.read_bytes()
    assert result.warning.startswith("The ONNX file was not simplified: onnxsim ")
    assert re.search(said, result.warning)
    assert "the exported graph is used as it is" in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_simplifier_that_never_ends_is_stopped(
    source: Path, tmp_path: Path, onnxsim: Callable[[str], None]
) -> None:
    onnxsim("time.sleep(600)")
    started = time.monotonic()
    result = simplify(source, tmp_path / "final.onnx", 2.0)
    assert time.monotonic() - started < 60
    assert "did not finish within 2 s and was stopped" in result.warning
    assert (tmp_path / "final.onnx").read_bytes() == source.read_bytes()


def test_a_simplifier_that_is_not_installed_is_survived(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune.stages.simplify.CHILD", CHILD.replace("onnxsim", "no_such_simplifier"))
    result = simplify(source, tmp_path / "final.onnx", 60.0)
    assert "No module named 'no_such_simplifier'" in result.warning


def test_what_lies_at_the_target_is_replaced_only_when_the_new_file_is_whole(
    source: Path, tmp_path: Path, onnxsim: Callable[[str], None]
) -> None:
    target = tmp_path / "final.onnx"
    target.write_bytes(b"old")
    onnxsim(f"assert open({str(target)!r}, 'rb').read() == b'old'\nreturn model, True")
    assert simplify(source, target, 60.0).warning == ""
    assert operations(target) == operations(source)


def test_a_reason_to_copy_is_told(source: Path, tmp_path: Path) -> None:
    result = simplify(source, tmp_path / "final.onnx", 0.0, unchanged="it was not asked for")
    assert result.warning == "The ONNX file was not simplified: it was not asked for."
    assert (tmp_path / "final.onnx").read_bytes() == source.read_bytes()
    assert simplify(source, source, 0.0, unchanged="it was not asked for").path == source


def test_weights_in_a_second_file_go_along(source: Path, tmp_path: Path) -> None:
    large = tmp_path / "logs" / "large.onnx"
    large.parent.mkdir()
    onnx.save(
        onnx.load(source), large, save_as_external_data=True, location="large.onnx.data", size_threshold=0
    )
    target = tmp_path / "final.onnx"
    target.with_name("final.onnx.data").write_bytes(b"of an earlier run")
    result = simplify(large, target, 60.0)
    assert "its weights lie in a second file" in result.warning
    for path in large.parent.iterdir():
        path.unlink()
    np.testing.assert_array_equal(run(target), run(source))
    assert (tmp_path / "final.onnx.data").stat().st_size == 2 * 4 * np.prod(SHAPE)


def test_a_target_that_cannot_be_written_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"final\.onnx: cannot be written"):
        simplify(source, tmp_path / "nowhere" / "final.onnx", 60.0)
