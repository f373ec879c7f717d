from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nets import mlp, net, noise, seeded
from torch import Tensor, nn

from edgeprune.errors import ModelError, UnsupportedModel
from edgeprune.graph.groups import Graph, flatten_outputs
from edgeprune.stages.trace import trace


class On(nn.Module):
    """A layer and whatever a test does with what it makes."""

    def __init__(self, forward: Callable[..., object], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Linear(6, 8)
        self.last = nn.Linear(8, 3)
        self.does = forward

    def forward(self, x: Tensor) -> object:
        return self.does(self, x)


def on(forward: Callable[..., object], layer: Callable[[], nn.Module] | None = None) -> nn.Module:
    return seeded(lambda: On(forward, layer() if layer else None))


def operations(graph: Graph) -> list[str]:
    return [node.operation for node in graph.nodes.values()]


def agrees(graph: Graph, model: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        expected = flatten_outputs(model(*(x.clone() for x in inputs)))
    torch.testing.assert_close(graph.run(inputs)[0], expected, rtol=0, atol=1e-12)


def test_the_batch_size_is_free_where_the_model_allows_it() -> None:
    model, x = net("residual")
    for examples in (x[:1], x, noise(5, *x.shape[1:])):
        graph = trace(model, [examples])
        assert graph.batch is None
        assert graph.traced_batch == max(2, len(examples))
        assert graph.nodes["x"].shape == (graph.traced_batch, *x.shape[1:])
        for batch in (1, 3):
            agrees(graph, model, noise(batch, *x.shape[1:]))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_size_written_into_the_forward_fixes_the_batch(batch: int) -> None:
    model = on(lambda self, x: self.last(self.layer(x.reshape(batch, 6))))
    graph = trace(model, [noise(batch, 2, 3)])
    assert graph.batch == batch
    assert graph.traced_batch == batch
    agrees(graph, model, noise(batch, 2, 3, seed=5))


def test_several_inputs_share_the_batch_and_those_of_another_size_do_not() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor, table: Tensor, y: Tensor) -> Tensor:
            return F.linear(torch.cat([x, y], 1), table)

    model, inputs = Three(), (noise(1, 6), noise(8, 11, seed=2), noise(1, 5, seed=3))
    graph = trace(model, inputs)
    assert graph.batch is None
    assert len(graph.inputs) == 3
    agrees(graph, model, noise(4, 6), inputs[1], noise(4, 5))


def test_the_model_and_its_inputs_are_left_as_they_were() -> None:
    model, x = net("flattened")
    before, seen = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    trace(model, [x])
    assert torch.equal(x, seen)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_operations_carry_the_path_of_their_module_and_weights_their_names() -> None:
    graph = trace(*(lambda m, x: (m, [x]))(*net("residual")))
    assert {node.scope for node in graph.nodes.values() if node.operation == "conv2d"} == {
        *("stem", "a1", "a2", "b1", "b2", "project")
    }
    assert {"stem.weight", "abn.running_var", "head.bias"} <= set(graph.weights)
    assert not any(weight.requires_grad for weight in graph.weights.values())
    mean = next(node for node in graph.nodes.values() if node.operation == "mean")
    assert (mean["dim"], mean["keepdim"]) == ([2, 3], False)
    assert graph.outputs == tuple(node.name for node in graph.nodes.values() if node.scope == "head")


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.last(F.relu(self.layer(x), inplace=True)),
        lambda self, x: self.last(self.layer(x).add_(1.0).mul_(2.0).sigmoid_()),
        lambda self, x: _twice(self, self.layer(x)),
        lambda self, x: self.last(F.hardtanh_(F.leaky_relu_(self.layer(x), 0.2), -0.5, 0.5)),
    ],
)
def test_in_place_operations_become_functional(forward: Callable[..., Tensor]) -> None:
    model = on(forward)
    graph = trace(model, [noise(2, 6)])
    agrees(graph, model, noise(4, 6, seed=3))
    assert not [name for name in operations(graph) if name.endswith("_")]


def _twice(self: On, h: Tensor) -> Tensor:
    """The value before an in-place operation is read by nobody; that behind it by two."""
    doubled = h * 2
    h.relu_()
    return self.last(h) + self.last(doubled) - self.last(h + doubled)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: _viewed_before(self, self.layer(x)),
        lambda self, x: _filled(self, self.layer(x)),
        lambda self, x: _view_changed(self, self.layer(x)),
    ],
)
def test_in_place_operations_that_views_can_see_are_left_alone(forward: Callable[..., Tensor]) -> None:
    model = on(forward)
    graph = trace(model, [noise(2, 6)])
    agrees(graph, model, noise(4, 6, seed=3))
    assert [name for name in operations(graph) if name.endswith("_")]


def _viewed_before(self: On, h: Tensor) -> Tensor:
    seen = h.unsqueeze(1)
    h.relu_()
    return self.last(seen).squeeze(1)


def _filled(self: On, h: Tensor) -> Tensor:
    h[:, 2:4] = 0.5
    return self.last(h)


def _view_changed(self: On, h: Tensor) -> Tensor:
    h.view(-1).neg_()
    return self.last(h)


def test_arithmetic_on_sizes_is_not_taken_for_arithmetic_on_tensors() -> None:
    model = on(
        lambda self, x: self.last(self.layer(x).reshape(x.shape[0] * 8 // 4, 4).reshape(x.shape[0], -1))
    )
    graph = trace(model, [noise(2, 6)])
    numbers = [node for node in graph.nodes.values() if node.shape is None and node.operation != "output"]
    assert numbers
    assert not {node.operation for node in numbers} & {"mul", "add", "sub", "div", "neg"}
    agrees(graph, model, noise(3, 6))


def test_several_outputs_are_found_in_order_inside_whatever_holds_them() -> None:
    model = on(lambda self, x: {"all": (self.layer(x), [self.last(self.layer(x))])})
    graph = trace(model, [noise(2, 6)])
    assert [graph.nodes[name].shape for name in graph.outputs] == [(2, 8), (2, 3)]
    agrees(graph, model, noise(2, 6))


def test_parts_of_an_operation_that_returns_several_have_shapes() -> None:
    model = on(lambda self, x: self.last(torch.cat(self.layer(x).split([3, 5], 1), 1)))
    graph = trace(model, [noise(2, 6)])
    split = next(node for node in graph.nodes.values() if node.operation == "split_with_sizes")
    assert split.shape is None
    assert split.shapes == ((2, 3), (2, 5))


def test_whole_numbers_are_told_from_floating_point() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids + 1)

    graph = trace(seeded(Words), [torch.tensor([[1, 2, 3]])])
    assert [graph.nodes[name].floating for name in ("ids", *graph.outputs)] == [False, True]


def test_a_model_that_fails_on_its_inputs_is_said_with_their_shapes() -> None:
    with pytest.raises(
        ModelError, match=r"fails on the example inputs \(2×7\): RuntimeError: .*--input"
    ) as caught:
        trace(seeded(mlp), [noise(2, 7)])
    assert caught.value.exit_code == 2
    with pytest.raises(ModelError, match="TypeError"):
        trace(seeded(mlp), [noise(2, 6), noise(2, 6)])


def test_control_flow_that_depends_on_data_is_refused_with_a_way_out() -> None:
    model = on(lambda self, x: self.last(self.layer(x)) if x.sum() > 0 else self.last(-self.layer(x)))
    with pytest.raises(
        UnsupportedModel, match=r"torch.export cannot capture the model: .*torch\.where"
    ) as caught:
        trace(model, [noise(2, 6)])
    assert caught.value.exit_code == 3
    assert caught.value.__cause__ is not None
