from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import NETS, Residual, mlp, net, noise, seeded
from plans import coupled, known
from torch import Tensor, nn

from edgeprune.errors import UsageError
from edgeprune.graph.groups import Coupling, Group
from edgeprune.stages.couple import couple


def places(group: Group) -> dict[tuple[str, int], list[int]]:
    """Weight and axis → the unit of each index."""
    return {(place.weight, place.axis): place.units.tolist() for place in group.places}


def named(coupling: Coupling) -> dict[str, Group]:
    return {group.name: group for group in coupling.groups}


def lost(coupling: Coupling, weight: str, axis: int, index: int) -> set[tuple[str, int, int]]:
    """All that goes if an index of a weight's axis goes: (weight, axis, index)."""
    owners = [
        (group, int(units[index]))
        for group in coupling.groups
        for units in [next((p.units for p in group.places if (p.weight, p.axis) == (weight, axis)), None)]
        if units is not None and units[index] >= 0
    ]
    return {
        (place.weight, place.axis, int(i))
        for group, unit in owners
        for place in group.places
        for i in np.flatnonzero(place.units == unit)
    }


def reason(coupling: Coupling, name: str) -> str:
    return next(pinned.reason for pinned in coupling.pinned if pinned.name == name)


class Net(nn.Module):
    """Layers and a forward that a test writes."""

    def __init__(self, forward: Callable[[Net, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.does = forward

    def forward(self, x: Tensor) -> object:
        return self.does(self, x)


def test_a_layer_its_bias_and_its_reader_lose_the_same_unit() -> None:
    coupling = known("mlp")[2]
    assert lost(coupling, "0.weight", 0, 5) == {("0.weight", 0, 5), ("0.bias", 0, 5), ("2.weight", 1, 5)}
    assert [(group.name, group.size) for group in coupling.groups] == [("0", 8), ("2", 7)]
    assert [reader.weight for reader in named(coupling)["0"].readers] == ["2.weight"]
    assert all(reader.compensable for group in coupling.groups for reader in group.readers)
    assert not any(group.convolutional for group in coupling.groups)


def test_a_residual_stream_is_one_group_made_by_all_that_add_to_it() -> None:
    groups = named(known("residual")[2])
    stream = places(groups["stem"])
    makers = [("stem.weight", 0), ("a2.weight", 0)]
    norms = [(f"bn.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")]
    readers = [("a1.weight", 1), ("b1.weight", 1), ("project.weight", 1)]
    assert {*makers, *norms, *readers, ("stem.bias", 0), ("a2.bias", 0)} == set(stream)
    assert all(units == list(range(8)) for units in stream.values())
    assert [len(groups[name].producers) for name in ("stem", "a1", "project", "b1")] == [2, 1, 2, 1]
    assert groups["stem"].convolutional
    assert groups["project"].size == 12, "the projection and the block behind it"


def test_a_depthwise_layer_hands_channels_on() -> None:
    coupling = known("depthwise")[2]
    group = named(coupling)["expand"]
    assert lost(coupling, "expand.weight", 0, 3) == {
        ("expand.weight", 0, 3),
        ("expand.bias", 0, 3),
        ("depth.weight", 0, 3),
        ("depth.bias", 0, 3),
        ("project.weight", 1, 3),
    }
    assert [reader.weight for reader in group.readers] == ["project.weight"]


def test_two_filters_a_channel_go_together() -> None:
    coupling = known("depthwise-2")[2]
    gone = lost(coupling, "expand.weight", 0, 3)
    assert {i for weight, axis, i in gone if (weight, axis) == ("depth.weight", 0)} == {6, 7}
    assert {i for weight, axis, i in gone if (weight, axis) == ("project.weight", 1)} == {6, 7}


def test_groups_of_a_convolution_keep_equal_shares() -> None:
    coupling = known("grouped")[2]
    groups = named(coupling)
    assert groups["before"].size == 4
    assert groups["grouped"].size == 6
    gone = lost(coupling, "before.weight", 0, 1)
    assert {i for weight, axis, i in gone if (weight, axis) == ("before.weight", 0)} == {1, 5}
    assert {i for weight, axis, i in gone if (weight, axis) == ("grouped.weight", 1)} == {1}
    made = lost(coupling, "grouped.weight", 0, 2)
    assert {i for weight, axis, i in made if (weight, axis) == ("grouped.weight", 0)} == {2, 8}
    assert not groups["before"].readers[0].compensable, "one column of the weight reads two channels"
    assert groups["grouped"].readers[0].compensable


def test_concatenated_parts_are_groups_of_their_own_and_halves_of_a_product_one() -> None:
    coupling = known("dense")[2]
    assert {i for w, axis, i in lost(coupling, "a.weight", 0, 1) if (w, axis) == ("c.weight", 1)} == {1}
    assert {i for w, axis, i in lost(coupling, "b.weight", 0, 1) if (w, axis) == ("c.weight", 1)} == {5}
    assert {i for w, axis, i in lost(coupling, "c.weight", 0, 1) if (w, axis) == ("c.weight", 0)} == {1, 5}
    assert {i for w, axis, i in lost(coupling, "c.weight", 0, 1) if w == "head.weight"} == {1}


def test_a_flattened_channel_is_a_block_of_columns() -> None:
    coupling = known("flattened")[2]
    gone = lost(coupling, "conv.weight", 0, 2)
    assert {i for weight, axis, i in gone if (weight, axis) == ("hidden.weight", 1)} == {8, 9, 10, 11}
    assert named(coupling)["conv"].readers[0].compensable


def test_a_gate_is_tied_to_what_it_scales() -> None:
    coupling = known("gate")[2]
    assert lost(coupling, "conv.weight", 0, 4) == {
        ("conv.weight", 0, 4),
        ("conv.bias", 0, 4),
        ("squeeze.weight", 1, 4),
        ("excite.weight", 0, 4),
        ("excite.bias", 0, 4),
        ("head.weight", 1, 4),
    }
    assert {group.name for group in coupling.groups} == {"conv", "squeeze"}


def test_shuffled_channels_are_followed_to_where_they_went() -> None:
    coupling = known("shuffled")[2]
    # channels are [0 1 2 3 | 4 5 6 7] before and [0 4 1 5 | 2 6 3 7] behind the shuffle; a group of the
    # convolution reads four of them, and equal places of both groups go together
    gone = {i for w, axis, i in lost(coupling, "conv.weight", 0, 0) if (w, axis) == ("conv.weight", 0)}
    assert {0, 4} <= gone
    assert {0, 2} <= gone


def test_padded_channels_keep_their_padding() -> None:
    model = seeded(
        lambda: Net(
            lambda self, x: self.b(F.pad(self.a(x), (0, 0, 0, 0, 2, 1))),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(7, 2, 1),
        )
    )
    coupling = coupled(model, noise(2, 3, 4, 4))
    group = named(coupling)["a"]
    assert places(group)["b.weight", 1] == [-1, -1, 0, 1, 2, 3, -1]


def test_a_half_that_is_an_output_is_pinned_and_the_other_is_not() -> None:
    model = seeded(
        lambda: Net(
            lambda self, x: (lambda left, right: (left, self.b(right)))(*self.a(x).chunk(2, 1)),
            a=nn.Linear(6, 8),
            b=nn.Linear(4, 3),
        )
    )
    coupling = coupled(model, noise(2, 6))
    (group,) = coupling.groups
    assert group.size == 4
    assert places(group)["a.weight", 0] == [-1, -1, -1, -1, 0, 1, 2, 3]
    assert reason(coupling, "a") == "an output of the model"


def test_an_operation_without_a_rule_pins_what_reaches_it_and_is_named() -> None:
    model = seeded(
        lambda: Net(
            lambda self, x: self.c(torch.flip(self.b(F.relu(self.a(x))), [1])),
            a=nn.Linear(6, 5),
            b=nn.Linear(5, 4),
            c=nn.Linear(4, 3),
        )
    )
    coupling = coupled(model, noise(2, 6))
    assert set(named(coupling)) == {"a"}
    assert "no rule for aten.flip.default" in reason(coupling, "b")
    assert reason(coupling, "b").startswith("reaches flip")


@pytest.mark.parametrize(
    ("exclude", "left"), [("a1", {"stem", "project", "b1"}), ("a2", {"a1", "project", "b1"})]
)
def test_excluded_layers_are_pinned_with_all_that_hangs_on_them(exclude: str, left: set[str]) -> None:
    coupling = coupled(seeded(Residual), noise(2, 3, 6, 6), exclude=(exclude,))
    assert set(named(coupling)) == left
    assert f"excluded by --exclude {exclude}" in {pinned.reason for pinned in coupling.pinned}


def test_excluding_a_module_excludes_every_layer_below_it() -> None:
    model = seeded(lambda: nn.Sequential(mlp((6, 5, 4)), nn.ReLU(), mlp((4, 5, 3))))
    coupling = coupled(model, noise(2, 6), exclude=("0",))
    assert set(named(coupling)) == {"2.0"}


def test_excluding_what_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--exclude stme: the model has no such layer; did you mean 'stem'"):
        coupled(seeded(Residual), noise(2, 3, 6, 6), exclude=("stme",))


def test_a_layer_that_is_called_twice_is_listed_once() -> None:
    model = seeded(
        lambda: Net(
            lambda self, x: self.out(self.a(x)) + self.out(self.a(-x)), a=nn.Linear(6, 8), out=nn.Linear(8, 3)
        )
    )
    coupling = coupled(model, noise(2, 6))
    assert [pinned.name for pinned in coupling.pinned] == ["out"]
    (group,) = coupling.groups
    assert len(group.readers) == 2
    assert not any(reader.compensable for reader in group.readers), "one weight cannot suit two readers"


def test_tied_weights_have_one_set_of_labels() -> None:
    (group,) = known("tied")[2].groups
    shared = {place for place in places(group) if place[0] in ("first.weight", "second.weight")}
    assert {axis for _, axis in shared} == {0, 1}
    assert len({weight for weight, _ in shared}) == 1
    assert all(units == list(range(8)) for units in places(group).values())


def test_a_weight_that_is_transposed_before_use_is_cut_where_it_is_stored() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.w = nn.Parameter(torch.ones(8, 5))
            self.out = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(F.linear(F.relu(self.a(x)), self.w.t())))

    coupling = coupled(seeded(Transposed), noise(2, 6))
    assert ("w", 0, 2) in lost(coupling, "a.weight", 0, 2)
    assert ("out.weight", 1, 4) in lost(coupling, "w", 1, 4)
    (reader,) = named(coupling)["a"].readers
    assert (reader.weight, reader.axis) in (("w", 0), (None, 1))


def test_two_prunable_axes_that_are_merged_are_pinned() -> None:
    model = seeded(
        lambda: Net(
            lambda self, x: self.out((self.a(x)[:, :, None] * self.b(x)[:, None, :]).flatten(1)),
            a=nn.Linear(6, 8),
            b=nn.Linear(6, 4),
            out=nn.Linear(32, 3),
        )
    )
    coupling = coupled(model, noise(2, 6))
    assert coupling.groups == ()
    assert "merged with another prunable axis by" in reason(coupling, "a")


def test_channels_that_were_moved_to_a_position_axis_are_pinned_by_a_convolution() -> None:
    model = seeded(lambda: Net(lambda self, x: self.b(self.a(x)), a=nn.Linear(6, 8), b=nn.Conv1d(3, 4, 3)))
    coupling = coupled(model, noise(2, 3, 6))
    assert coupling.groups == ()
    assert reason(coupling, "a").startswith("convolved over by b")


def test_channels_that_were_merged_with_the_batch_are_followed() -> None:
    def blurred(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        batch, channels, high, wide = h.shape
        h = F.avg_pool2d(h.view(batch * channels, 1, high, wide), 2)
        return self.b(h.view(batch, channels, high // 2, wide // 2))

    model = seeded(lambda: Net(blurred, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1)))
    coupling = coupled(model, noise(2, 3, 4, 4))
    assert ("b.weight", 1, 3) in lost(coupling, "a.weight", 0, 3)


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_same_net_gives_the_same_groups(name: str) -> None:
    first, second = known(name)[2], coupled(*net(name))
    assert [group.name for group in first.groups] == [group.name for group in second.groups]
    assert [places(group) for group in first.groups] == [places(group) for group in second.groups]
    assert first.pinned == second.pinned
    again = couple(first.graph)
    assert [places(group) for group in again.groups] == [places(group) for group in first.groups]


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_index_of_every_weight_has_one_owner_at_most(name: str) -> None:
    coupling = known(name)[2]
    for node in coupling.graph.nodes.values():
        if node.operation == "weight":
            for axis, size in enumerate(node.shape or ()):
                owners = np.zeros(size, dtype=int)
                for group in coupling.groups:
                    owners += sum(
                        p.units >= 0 for p in group.places if (p.weight, p.axis) == (node.target, axis)
                    )
                assert owners.max(initial=0) <= 1
    for group in coupling.groups:
        assert len(set(group.roots.tolist())) == group.size
        for place in group.places:
            assert set(place.units.tolist()) - {-1} <= set(range(group.size))
    names = [group.name for group in coupling.groups]
    assert len(names) == len(set(names))
