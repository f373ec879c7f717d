"""Float16 by option: what ships, its own link of the chain, and what the gate makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from terminal import Terminal, small_run

from edgeprune import half
from edgeprune.errors import BrokenPromise, UnsupportedModel, UsageError
from edgeprune.half import halved, with_weights_of
from edgeprune.records.run import Run, Term
from edgeprune.runtimes.reference import file_outputs
from edgeprune.stages.gate import gate
from edgeprune.target import Target
from edgeprune.verdict.limits import Limits


@pytest.fixture
def terminal(monkeypatch, capsys):
    return Terminal(monkeypatch, capsys)


def net(path: Path, weight: np.ndarray, scale: float | None = None) -> Path:
    """y = W x, and times a constant where one is given."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h" if scale else "y"], name="product")]
    if scale:
        constant = numpy_helper.from_array(np.array(scale, np.float32))
        nodes.append(helper.make_node("Constant", [], ["c"], value=constant, name="constant"))
        nodes.append(helper.make_node("Mul", ["h", "c"], ["y"], name="scaling"))
    rows, columns = weight.shape
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_weights_become_float16_and_nothing_else_changes(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    weight[0, 0], weight[1, 1] = 1e-9, 0.0
    model = net(tmp_path / "m.onnx", weight)
    assert halved(model, tmp_path / "h.onnx") == half.Converted(32, ())
    graph = onnx.load(tmp_path / "h.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert graph.initializer[0].data_type == TensorProto.FLOAT16
    with_weights_of(model, tmp_path / "h.onnx", tmp_path / "w.onnx")
    rounded = numpy_helper.to_array(onnx.load(tmp_path / "w.onnx").graph.initializer[0])
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - weight).max() <= 2.0**-11 * np.abs(weight).max()
    assert rounded[1, 1] == 0.0
    (found,) = file_outputs(tmp_path / "w.onnx", (np.eye(8, dtype=np.float32),), tmp_path / "run")
    assert np.array_equal(found, rounded)


def test_constants_within_operations_are_told(tmp_path: Path) -> None:
    weight = np.ones((2, 2), np.float32)
    assert halved(net(tmp_path / "a.onnx", weight, 0.5), tmp_path / "h.onnx").scalars == ()
    assert halved(net(tmp_path / "b.onnx", weight, 2**0.5), tmp_path / "h.onnx").scalars == ("c",)


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="holds a number of size 7e\\+04, float16 ends at 65504"):
        halved(net(tmp_path / "m.onnx", np.full((2, 2), 7e4)), tmp_path / "h.onnx")
    assert not (tmp_path / "h.onnx").exists()
    halved(net(tmp_path / "n.onnx", np.ones((2, 2))), tmp_path / "h.onnx")
    with pytest.raises(UnsupportedModel, match="is it in float16 already"):
        halved(tmp_path / "h.onnx", tmp_path / "i.onnx")


def test_a_converter_that_errs_is_found_out(tmp_path: Path) -> None:
    model = net(tmp_path / "m.onnx", np.ones((2, 2)))
    halved(net(tmp_path / "other.onnx", np.full((2, 2), 1.001)), tmp_path / "h.onnx")
    with pytest.raises(BrokenPromise, match="the conversion to float16 changed 'w'"):
        with_weights_of(model, tmp_path / "h.onnx", tmp_path / "w.onnx")


def test_a_target_computes_a_float16_file_in_float16() -> None:
    assert Target("board").for_float16().precision == "fp16"
    assert Target("gpu", precision="tf32").for_float16().precision == "fp16"
    with pytest.raises(UsageError, match="--fp16: npu computes in bfloat16"):
        Target("npu", precision="bf16").for_float16()


# ------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = ("--target", "cpu-1t", "--limit", "certified_error=1000")
    return small_run(tmp_path_factory.mktemp("half") / "r", "--no-latency", "--fp16", "--quick", *given)


def test_what_ships_and_what_was_judged_is_the_float16_file(finished: Path) -> None:
    run = Run.load(finished)
    types = {i.data_type for i in onnx.load(finished / run.artifacts["pruned"].path).graph.initializer}
    assert TensorProto.FLOAT16 in types
    assert TensorProto.FLOAT not in types
    assert run.validations[0].precision == "fp16"
    whole = finished / "logs" / "export" / "pruned.float32.onnx"
    weights = [
        sum(len(i.raw_data) for i in onnx.load(f).graph.initializer)
        for f in (whole, finished / "pruned.onnx")
    ]
    assert weights[0] == 2 * weights[1] > 0
    inputs = (np.random.default_rng(0).uniform(-1, 1, (16, 8)).astype(np.float32),)
    (a,) = file_outputs(finished / "pruned.onnx", inputs, finished.parent / "a")
    (b,) = file_outputs(whole, inputs, finished.parent / "b")
    assert 0 < np.abs(a - b).max() < 1e-2


def test_float16_is_a_link_of_its_own(finished: Path, terminal: Terminal) -> None:
    terms = {t.name: t for t in Run.load(finished).terms}
    assert list(terms) == ["prune", "masking", "export", "simplify", "fp16", "rounding"]
    fp16, rounding = terms["fp16"], terms["rounding"]
    assert fp16.label == rounding.label == "proved-modulo-rounding-model"
    assert fp16.bound is not None
    assert fp16.observed is not None
    assert 0 < fp16.observed <= fp16.bound < 0.01
    assert rounding.bound is not None
    assert rounding.bound > fp16.bound  # holds the conversion, and results rounded to eleven bits
    assert "float16" in rounding.assumptions[0]
    assert "weights in float16" in (finished / "report.html").read_text(encoding="utf-8")
    assert terminal("verify", finished).code == 0


def test_the_gate_adds_what_float16_adds(finished: Path) -> None:
    run = Run.load(finished)
    certified = min(c.bound for c in run.certificates if c.scope == "global" and c.bound is not None)
    more = sum(t.bound or 0.0 for t in run.terms if t.name in ("fp16", "rounding"))
    (check,) = gate(run, Limits(certified_error=certified + 0.5 * more)).checks
    assert check.outcome == "fail"
    assert check.measured == pytest.approx(certified + more)
    (check,) = gate(run, Limits(certified_error=certified + 1.01 * more)).checks
    assert check.outcome == "pass"


def test_float16_without_a_bound_passes_no_certified_limit(finished: Path) -> None:
    run = Run.load(finished)
    unbounded = tuple(_unbounded(t) if t.name == "fp16" else t for t in run.terms)
    (check,) = gate(replace(run, terms=unbounded), Limits(certified_error=1e9)).checks
    assert check.outcome == "unavailable"
    assert "its weights has no bound" in check.reason


def _unbounded(term: Term) -> Term:
    return replace(term, bound=None, label="observed")


def test_a_later_certify_keeps_to_the_file(finished: Path, terminal: Terminal) -> None:
    before = (finished / "pruned.onnx").read_bytes()
    ended = terminal("certify", finished, "--domain", "linf:0.1@zero", "--budget", "1m")
    assert ended.code == 0, ended.err
    terms = {t.name: t for t in Run.load(finished).terms}
    assert terms["fp16"].bound is not None
    assert (finished / "pruned.onnx").read_bytes() == before


def test_a_net_that_overflows_is_refused(tmp_path: Path, terminal: Terminal) -> None:
    (tmp_path / "big.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()\n"
        "    net[2].weight.data *= 1e7\n    return net\n"
    )
    model = (f"{tmp_path / 'big.py'}:build", "--input", "1x8", "--method", "magnitude", "--no-latency")
    ended = terminal("run", *model, "--no-simplify", "--fp16", "-o", tmp_path / "r")
    assert ended.code == 3
    assert "float16 ends at 65504" in ended.err
