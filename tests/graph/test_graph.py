from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import net, noise, seeded
from plans import coupled
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.graph.execution import run_in
from edgeprune.graph.groups import FIXED, Flow, Labels, Mask, Ref, flatten_outputs
from edgeprune.stages.trace import trace

SIZE = 12
REASONS = ("because", "so there", "never")


class Sets:
    """What `Labels` promises, written as sets: slow and plain."""

    def __init__(self) -> None:
        self.classes = [{label} for label in range(SIZE + 1)]
        self.why: dict[int, str] = {FIXED: "a size that the operation fixes"}
        self.known = list(self.why.values())

    def of(self, label: int) -> set[int]:
        return next(members for members in self.classes if label in members)

    def reason(self, label: int) -> str | None:
        given = [self.why[member] for member in self.of(label) if member in self.why]
        return min(given, key=self.known.index, default=None)

    def tie(self, first: int, second: int) -> None:
        a, b = self.of(first), self.of(second)
        if a is not b:
            self.classes.remove(b)
            a |= b

    def pin(self, labels: list[int], reason: str) -> None:
        free = [label for label in labels if self.reason(label) is None]
        if free and reason not in self.known:
            self.known.append(reason)
        for label in free:
            self.why[label] = reason


INDEX = st.integers(0, SIZE)
PAIRS = st.lists(st.tuples(INDEX, INDEX), min_size=1, max_size=6)
STEPS = st.lists(
    st.one_of(PAIRS, st.tuples(st.lists(INDEX, min_size=1, max_size=3), st.sampled_from(REASONS))), max_size=8
)


@given(STEPS)
def test_labels_are_sets_that_know_why_they_are_pinned(
    steps: list[list[tuple[int, int]] | tuple[list[int], str]],
) -> None:
    labels, sets = Labels(), Sets()
    labels.fresh(SIZE)
    every = np.arange(SIZE + 1)
    for step in steps:
        if isinstance(step, tuple):
            labels.pin(np.array(step[0]), step[1])
            sets.pin(*step)
        else:
            first, second = np.array(step).T
            labels.tie(first, second)
            for pair in step:
                sets.tie(*pair)
        assert labels.find(every).tolist() == [min(sets.of(label)) for label in every]
        assert labels.pinned(every).tolist() == [sets.reason(label) is not None for label in every]
        assert [labels.reason(label) for label in every[labels.pinned(every)]] == [
            reason for label in every if (reason := sets.reason(label)) is not None
        ]


def test_a_pin_reaches_along_a_chain_that_is_tied_at_once() -> None:
    labels = Labels()
    chain = labels.fresh(4)
    labels.pin(chain[-1:], "the end is pinned")
    labels.tie(chain[:-1], chain[1:])
    assert labels.pinned(chain).all()
    assert labels.reason(int(chain[0])) == "the end is pinned"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_fresh_labels_are_new_and_free(counts: list[int]) -> None:
    labels = Labels()
    made = [labels.fresh(count) for count in counts]
    assert np.concatenate(made).tolist() == list(range(1, sum(counts) + 1))
    assert len(labels) == sum(counts) + 1
    assert not labels.pinned(np.concatenate(made)).any()


def test_only_axes_of_one_size_are_tied() -> None:
    labels = Labels()
    with pytest.raises(ValueError, match="cannot tie 3 labels to 2"):
        labels.tie(labels.fresh(3), labels.fresh(2))


def test_label_zero_is_pinned_from_the_start() -> None:
    labels = Labels()
    label = labels.fresh(1)
    assert labels.pinned(np.array([FIXED]))[0]
    labels.tie(label, np.array([FIXED]))
    assert labels.pinned(label)[0]


def test_a_graph_runs_as_the_net_does_at_any_batch_size() -> None:
    model, x = net("residual")
    graph = trace(model, [x])
    assert graph.batch is None
    for batch in (1, 2, 7):
        inputs = noise(batch, *x.shape[1:], seed=batch)
        outputs, values = graph.run([inputs])
        with torch.no_grad():
            torch.testing.assert_close(outputs, (model(inputs),), rtol=0, atol=1e-12)
        assert values == {}


def test_a_graph_runs_with_other_weights_and_its_own_stay() -> None:
    model, x = net("mlp")
    graph = trace(model, [x])
    bias = torch.tensor([5.0, -3.0, 0.5], dtype=torch.float64)
    before = graph.run([x])[0][0]
    after = graph.run([x], {"4.bias": bias})[0][0]
    torch.testing.assert_close(after - before, (bias - graph.weights["4.bias"]).expand(2, 3))
    torch.testing.assert_close(graph.run([x])[0][0], before, rtol=0, atol=0)


def test_wanted_values_are_those_of_the_run_and_nothing_behind_them_is_computed() -> None:
    model, x = net("flattened")
    graph = trace(model, [x])
    wanted = frozenset({"conv2d", "relu"})
    _, all_of_them = graph.run([x], wanted=wanted)
    early = graph.values([x], {}, wanted)
    assert set(early) == set(all_of_them) == wanted
    assert torch.equal(early["conv2d"], model.conv(x))
    # the last layer cannot run with this weight; nobody asks it to
    broken = {"out.weight": torch.zeros(1, 1, dtype=torch.float64)}
    assert torch.equal(graph.values([x], broken, wanted)["relu"], early["relu"])
    with pytest.raises(RuntimeError):
        graph.run([x], broken)


def test_a_masked_reader_hears_zeros_and_other_readers_do_not() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.made = nn.Linear(4, 5)
            self.left = nn.Linear(5, 3)
            self.right = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.made(x))
            return self.left(h), self.right(h)

    model, x = seeded(Two), noise(3, 4)
    graph = trace(model, [x])
    reader, source = next(
        (n.name, n["input"].name)
        for n in graph.nodes.values()
        if n.scope == "left" and "input" in n.arguments
    )
    heard = np.array([True, False, True, True, False])
    left, right = graph.run_masked([x], {reader: [Mask(source, 1, heard)]}, {})
    h = torch.relu(model.made(x)).detach()
    torch.testing.assert_close(left, model.left(h * torch.from_numpy(heard)).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(right, model.right(h).detach(), rtol=0, atol=1e-12)


def test_two_masks_on_one_value_both_hold() -> None:
    model, x = net("mlp")
    graph = trace(model, [x])
    first = Mask("relu", 1, np.arange(8) != 2)
    second = Mask("relu", 1, np.arange(8) != 5)
    both = Mask("relu", 1, first.heard & second.heard)
    assert torch.equal(
        graph.run_masked([x], {"linear_1": [first, second]}, {})[0],
        graph.run_masked([x], {"linear_1": [both]}, {})[0],
    )


def test_nodes_are_found_by_name_and_by_what_they_read() -> None:
    graph = trace(*_one("residual"))
    conv = next(node for node in graph.nodes.values() if node.scope == "a1" and node.operation == "conv2d")
    assert conv.where == "a1 (conv2d)"
    assert graph.weight_of(conv["weight"]) == "a1.weight"
    assert graph.weight_of(conv["input"]) is None
    assert graph.weight_of(None) is None
    assert conv.get("bias") is None
    assert conv.get("no such argument", 7) == 7
    assert [user.operation for user in graph.users(conv.name)] == ["batch_norm"]
    source = conv["input"].name
    assert {user.scope for user in graph.users(source) if user.operation == "conv2d"} == {"a1"}


def _one(name: str) -> tuple[nn.Module, list[Tensor]]:
    model, x = net(name)
    return model, [x]


def test_arguments_inside_lists_are_sources_too() -> None:
    graph = trace(*_one("dense"))
    cat = next(node for node in graph.nodes.values() if node.operation == "cat")
    assert cat.sources() == tuple(ref.name for ref in cat["tensors"])
    assert len(cat.sources()) == 2


def test_outputs_are_flattened_and_what_is_no_tensor_is_left_out() -> None:
    a, b = torch.ones(1), torch.zeros(2)
    found = flatten_outputs({"y": a, "more": (b, 3, [None, a])})
    assert [tensor is expected for tensor, expected in zip(found, (a, b, a), strict=True)] == [True] * 3


def test_asking_for_labels_that_are_not_there_is_a_lookup_error() -> None:
    graph = trace(*_one("dense"))
    flow = Flow(graph)
    chunk = next(node for node in graph.nodes.values() if node.operation == "chunk")
    flow.axes["x"] = None
    flow.axes[chunk.name] = (flow.fixed((2, 3)), flow.fixed((2, 3)))
    for name in ("x", chunk.name, "never seen"):
        with pytest.raises(LookupError, match="carries no labels"):
            flow.of(Ref(name))


def test_what_is_left_under_a_plan() -> None:
    model, x = net("dense")
    coupling = coupled(model, x)
    alive = coupling.alive({"c": np.array([1, 3])})
    chunk = next(n for n in coupling.graph.nodes.values() if n.operation == "chunk")
    halves = alive.parts(chunk.name)
    assert [part[1].tolist() for part in halves] == [[False, True, False, True]] * 2
    made = next(n for n in coupling.graph.nodes.values() if n.operation == "conv2d" and n.scope == "c")
    assert alive.shape(made.name) == (2, 4, 5, 5)
    assert not alive.whole(made.name)
    assert alive.whole(next(n.name for n in coupling.graph.nodes.values() if n.operation == "cat"))
    output = next(n for n in coupling.graph.nodes.values() if n.operation == "output")
    assert alive.axes(output.name) == alive.parts(output.name) == ()


def test_weights_are_cast_one_by_one() -> None:
    net_, x = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(8)]).eval(), torch.randn(2, 6)
    graph = trace(net_, [x])
    alive: list[weakref.ref[Tensor]] = []
    most = []

    class Watch(TorchDispatchMode):
        """Counts the weights in double that are alive at once."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and made.shape == (6, 6):
                alive.append(weakref.ref(made))
                most.append(sum(one() is not None for one in alive))
            return made

    with Watch():
        (out,) = run_in(graph.module, [x], torch.float64)
    assert len(most) == 8
    assert max(most) <= 2
    assert torch.allclose(out, net_.double()(x.double()))
