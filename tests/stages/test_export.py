from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from nets import Flattened, Residual, Written, mlp, net, noise, seeded
from plans import coupled, plan_of, random_keep
from torch import Tensor, nn

from edgeprune.errors import StorageError, UnsupportedModel
from edgeprune.files import sha256_of
from edgeprune.graph.groups import flatten_outputs
from edgeprune.records.run import Artifact
from edgeprune.stages import export as exporting
from edgeprune.stages.export import describe, export, stamp
from edgeprune.stages.shrink import shrink


def single(make: Callable[[], nn.Module]) -> nn.Module:
    return seeded(make).float()


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feed)


def agrees(path: Path, module: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        expected = flatten_outputs(module(*inputs))
    for found, wanted in zip(run(path, *inputs), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


@dataclass(frozen=True)
class File:
    """A net, what it was exported with, and the file."""

    model: nn.Module
    x: Tensor
    path: Path
    artifact: Artifact


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> File:
    model, x = single(Residual), noise(1, 3, 6, 6).float()
    path = tmp_path_factory.mktemp("residual") / "net.onnx"
    return File(model, x, path, export(model, [x], path))


def test_a_file_computes_what_the_net_computes_and_is_described(residual: File) -> None:
    agrees(residual.path, residual.model, residual.x)
    loaded = onnx.load(residual.path)
    onnx.checker.check_model(loaded, full_check=True)
    opset = loaded.opset_import[0].version
    size = residual.path.stat().st_size
    assert residual.artifact == Artifact("net.onnx", sha256_of(residual.path), size, opset)
    assert list(residual.path.parent.iterdir()) == [residual.path]


def test_the_same_net_gives_the_same_bytes(tmp_path: Path) -> None:
    model, x = single(mlp), noise(1, 6).float()
    first, second = (export(model, [x], tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("given", [1, 2])
def test_a_batch_size_is_free_where_it_was_asked_to_be(tmp_path: Path, given: int) -> None:
    model, x = single(Flattened), noise(given, 3, 6, 6).float()
    before, seen = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    export(model, [x], tmp_path / "free.onnx", dynamic_batch=True)
    for batch in (1, 2, 5):
        agrees(tmp_path / "free.onnx", model, noise(batch, 3, 6, 6, seed=batch).float())
    assert torch.equal(x, seen), "neither the inputs nor the model are touched"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_size_is_fixed_unless_it_was_asked_to_be_free(residual: File) -> None:
    assert onnx.load(residual.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    with pytest.raises(Exception, match="invalid dimensions"):
        run(residual.path, noise(3, 3, 6, 6).float())


def test_shrunk_modules_and_shrunk_graphs_are_exported(tmp_path: Path) -> None:
    for make, x, kind in ((Residual, noise(2, 3, 6, 6), "module"), (Written, noise(2, 1, 6), "graph")):
        model, x = single(make), x.float()
        coupling = coupled(model, x)
        shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 0)), [x])
        assert shrunk.kind == kind
        export(shrunk.module, [x], tmp_path / "net.onnx", dynamic_batch=True)
        agrees(tmp_path / "net.onnx", shrunk.module, x)


class Two(nn.Module):
    """Two inputs, of which one is whole numbers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, ids: Tensor, weights: Tensor) -> dict[str, Tensor]:
        h = (self.table(ids) * weights.unsqueeze(-1)).sum(1)
        return {"y": self.out(h), "h": h}


def test_several_inputs_and_outputs_keep_their_order_and_names(tmp_path: Path) -> None:
    model = single(Two)
    inputs = (torch.tensor([[1, 2, 3]]), noise(1, 3).float())
    export(model, inputs, tmp_path / "net.onnx", dynamic_batch=True)
    assert [entry.name for entry in onnx.load(tmp_path / "net.onnx").graph.input] == ["ids", "weights"]
    agrees(tmp_path / "net.onnx", model, torch.tensor([[1, 2, 3], [4, 5, 6]]), noise(2, 3, seed=4).float())
    export(model, inputs, tmp_path / "named.onnx", names=("tokens", "shares"))
    assert [entry.name for entry in onnx.load(tmp_path / "named.onnx").graph.input] == ["tokens", "shares"]


def test_nothing_private_is_left_in_the_file(residual: File) -> None:
    content = residual.path.read_bytes()
    here = str(Path(__file__).parent).encode()
    for secret in (b"Traceback", b'File "', b".py", here, b"stack_trace", b"forward(self"):
        assert secret not in content
    loaded = onnx.load(residual.path)
    assert not loaded.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in loaded.graph.node)


def test_metadata_inside_subgraphs_and_functions_is_removed() -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["a"], ["b"], doc_string="secret")], "inner", [], []
    )
    outer = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    model = onnx.helper.make_model(onnx.helper.make_graph([outer], "outer", [], []))
    inside = onnx.helper.make_node("Identity", ["a"], ["b"], doc_string="secret")
    opset = [onnx.helper.make_opsetid("", 18)]
    function = onnx.helper.make_function("local", "f", ["a"], ["b"], [inside], opset)
    function.doc_string = "secret"
    model.functions.append(function)
    model.doc_string = "secret"
    entry = model.graph.node[0].attribute[0].g.node[0].metadata_props.add()
    entry.key, entry.value = "where", "secret"
    exporting._strip(model)
    assert b"secret" not in model.SerializeToString()


def test_an_opset_may_be_asked_for_and_the_exporters_logger_is_left_alone(tmp_path: Path) -> None:
    model, x = single(mlp), noise(1, 6).float()
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    assert export(model, [x], tmp_path / "net.onnx", opset=18).opset == 18
    assert logger.level == before
    agrees(tmp_path / "net.onnx", model, x)


def test_what_the_exporter_cannot_express_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(UnsupportedModel, match="the ONNX exporter cannot express the model: ") as caught:
        export(Branches(), [noise(1, 6).float()], tmp_path / "net.onnx")
    assert "--dynamic-batch" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    class Sized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 6)

    with pytest.raises(UnsupportedModel, match="Without --dynamic-batch the sizes are fixed"):
        export(Sized(), [noise(2, 6).float()], tmp_path / "net.onnx", dynamic_batch=True)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"net.onnx: cannot be written"):
        export(single(mlp), [noise(1, 6).float()], tmp_path / "nowhere" / "net.onnx")


def test_provenance_replaces_whatever_metadata_was_there(residual: File, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    shutil.copyfile(residual.path, path)
    stamp(path, {"version": "1", "plan_sha256": "ab"})
    stamp(path, {"version": "2"})
    assert {entry.key: entry.value for entry in onnx.load(path).metadata_props} == {"edgeprune.version": "2"}
    agrees(path, residual.model, residual.x)
    first = sha256_of(path)
    stamp(path, {"version": "2"})
    assert sha256_of(path) == first


def test_weights_too_large_for_one_file_go_to_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LARGEST_BYTES", 0)
    model, x = single(lambda: mlp((6, 64, 64, 3))), noise(1, 6).float()
    path = tmp_path / "net.onnx"
    first = export(model, [x], path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert first.size_bytes == sum(entry.stat().st_size for entry in tmp_path.iterdir())
    agrees(path, model, x)
    assert export(model, [x], path).size_bytes == first.size_bytes, "the second file is not appended to"
    agrees(path, model, x)
    stamp(path, {"version": "1"})
    agrees(path, model, x)
    assert describe(path, tmp_path.parent).path == f"{tmp_path.name}/net.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "dense", "gate", "shuffled", "tied", "tokens"])
def test_each_kind_of_shrunk_net_is_exported(name: str, tmp_path: Path) -> None:
    model, x = net(name)
    model, x = model.float(), x.float()
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), [x])
    export(shrunk.module, [x], tmp_path / "net.onnx")
    agrees(tmp_path / "net.onnx", shrunk.module, x)
