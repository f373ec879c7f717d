"""Every operation of every registered family: what is cut out equals what is read as zeros.

Each handle is called by its ATen name between a layer that makes channels and one that reads them,
the channels are removed at random, and the narrowed graph is held against the masked one in
float64. An operation that keeps its channels by nature is listed, with what must be pinned.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from layers import OTHER_RANKS, WITH_WEIGHTS
from nets import CONV, NETS, Around, Several, call, noise, seeded
from operations import NOT_NARROWED, ON_CHANNELS, PINNING
from plans import coupled, distance, known, masked, muted, narrowed, random_keep
from torch import Tensor, nn

from edgeprune.graph.groups import Coupling
from edgeprune.ops import OPERATIONS, family_of, operation_for

SEEDS = range(2)
TOLERANCE = 1e-9
EXERCISED = {*ON_CHANNELS, *OTHER_RANKS, *WITH_WEIGHTS}


def side_by_side(count: int = 12) -> list[tuple[str, ...]]:
    """The handles that are exercised, as many in one net as are traced in about half a second."""
    ranks = {handle: OTHER_RANKS[handle][0] if handle in OTHER_RANKS else 2 for handle in EXERCISED}
    alike = [sorted(handle for handle in EXERCISED if ranks[handle] == rank) for rank in (1, 2, 3)]
    return [tuple(some[k : k + count]) for some in alike for k in range(0, len(some), count)]


def build(handle: str) -> nn.Module:
    rank, make = OTHER_RANKS.get(handle) or (2, WITH_WEIGHTS.get(handle) or (lambda: ON_CHANNELS[handle]))
    return Around(make(), rank)


def narrows(coupling: Coupling, handle: str, branch: int, seed: int) -> bool:
    """Whether the plan takes something from what an operation of this name reads, makes, or meets."""
    graph, alive = coupling.graph, coupling.alive(random_keep(coupling, seed))
    own = [
        node
        for node in graph.nodes.values()
        if node.scope.startswith(f"nets.{branch}") and node.operation == handle
    ]
    near = {name for node in own for name in (*node.sources(), node.name)}
    near |= {user.name for node in own if not node.sources() for user in graph.users(node.name)}
    return any(not alive.whole(name) for name in near if graph.nodes[name].shape is not None)


@pytest.mark.parametrize("handles", side_by_side(), ids=lambda handles: f"{handles[0]}…{handles[-1]}")
def test_narrowing_an_operation_equals_masking_its_readers(handles: tuple[str, ...]) -> None:
    model = seeded(lambda: Several(*map(build, handles)))
    x = noise(2, 3, *[5] * (OTHER_RANKS[handles[0]][0] if handles[0] in OTHER_RANKS else 2))
    coupling = coupled(model, x)
    whole = coupling.graph.run([x])[0]
    exercised = set()
    for seed in SEEDS:
        keep = random_keep(coupling, seed)
        found, heard = narrowed(coupling, keep, x), masked(coupling, keep, x)
        plain = all(reader.weight for group in coupling.groups for reader in group.readers)
        silenced = muted(model, coupling, keep, x) if plain else heard
        for k, handle in enumerate(handles):
            assert operation_for(handle) is not None
            assert distance(found[k : k + 1], heard[k : k + 1]) <= TOLERANCE, handle
            assert distance(silenced[k : k + 1], heard[k : k + 1]) <= TOLERANCE, handle
            loss = distance(whole[k : k + 1], heard[k : k + 1])
            if loss > 1e-6 and narrows(coupling, handle, k, seed):
                exercised.add(handle)
    assert exercised == set(handles), "around these nothing was removed, or nothing that was heard"


@pytest.mark.parametrize("handle", sorted(PINNING))
def test_an_operation_that_pins_changes_nothing(handle: str) -> None:
    model, x = seeded(lambda: Around(PINNING[handle])), noise(2, 3, 5, 5)
    coupling = coupled(model, x)
    assert operation_for(handle) is not None
    assert handle in {node.operation for node in coupling.graph.nodes.values()}
    assert handle in next(pinned.reason for pinned in coupling.pinned if pinned.name == "stem")
    keep = random_keep(coupling, 0)
    assert distance(narrowed(coupling, keep, x), masked(coupling, keep, x)) <= TOLERANCE


def test_every_handle_is_an_operation_of_torch() -> None:
    handles = {handle for member in OPERATIONS.values() for handle in member.handles} - {"getitem"}
    assert [handle for handle in sorted(handles) if not hasattr(torch.ops.aten, handle)] == []


def test_every_handle_is_exercised_or_its_absence_explained() -> None:
    handles = {handle for member in OPERATIONS.values() for handle in member.handles}
    listed = (EXERCISED, set(PINNING), set(NOT_NARROWED))
    assert sum(map(len, listed)) == len(set().union(*listed)), "a handle is listed twice"
    assert set().union(*listed) == handles


@pytest.mark.parametrize("name", sorted(NETS))
def test_narrowing_a_whole_net_equals_masking_it(name: str) -> None:
    model, x, coupling = known(name)
    wider = noise(5, *x.shape[1:], seed=2)
    for seed in SEEDS:
        keep = random_keep(coupling, seed)
        heard = masked(coupling, keep, x)
        assert distance(narrowed(coupling, keep, x), heard) <= TOLERANCE
        assert distance(muted(model, coupling, keep, x), heard) <= TOLERANCE
        # the batch size stays free in what was narrowed
        assert distance(narrowed(coupling, keep, wider), masked(coupling, keep, wider)) <= TOLERANCE


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.sub(*torch.cat([torch.relu(x), torch.exp(-x)], 0).chunk(2, 0)),
        lambda x: x.reshape(x.shape[0] * 8, 1, 16).mean(2).reshape(x.shape[0], 8),
        lambda x: x.flatten(0, 1).reshape(x.shape[0], 8, -1),
        lambda x: x.reshape(-1, 8, 4, 2, 2).flatten(2),
        lambda x: x.expand(3, *x.shape)[1],
        lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1).flatten(3).sum(1),
        lambda x: x[: x.shape[0]] * x.new_ones(x.shape[0], 1, 1, 1),
    ],
)
def test_a_batch_of_another_size_runs_through_what_was_narrowed(
    operation: Callable[[Tensor], Tensor],
) -> None:
    model, x, other = seeded(lambda: Around(operation)), noise(2, 3, 5, 5), noise(5, 3, 5, 5, seed=4)
    coupling = coupled(model, x)
    assert coupling.graph.batch is None
    for seed in SEEDS:
        keep = random_keep(coupling, seed)
        assert "stem" in keep
        assert distance(narrowed(coupling, keep, other), masked(coupling, keep, other)) <= TOLERANCE


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (call(torch.softmax, 1), "normalised over by"),
        (call(torch.log_softmax, -3), "normalised over by"),
        (call(F.layer_norm, [8, 4, 4]), "normalised over by"),
        (call(torch.mean, (1, 2), keepdim=True), "reduced over by"),
        (lambda x: x[:, ::2], "taken in steps of 2 by"),
        (call(F.pad, (0, 0, 0, 0, -1, 0)), "padded by"),
        (lambda x: F.pad(x.transpose(1, 2), (0, 0, 2, 1), mode="reflect"), "padded by"),
        (lambda x: F.max_pool2d(x.transpose(1, 2), 2), "pooled over by"),
        (lambda x: F.conv2d(x.transpose(1, 2), torch.ones(5, 4, 2, 2, dtype=x.dtype)), "convolved over by"),
        (lambda x: torch.clamp(x, min=-x), "takes tensors as limits"),
        (lambda x: torch.polygamma(1, x * x + 1), "no rule for aten.polygamma.default"),
        (lambda x: x[:, 3:4] * x[:, :, :1], "broadcast by"),
    ],
)
def test_what_an_operation_cannot_lose_is_pinned_and_the_operation_named(
    operation: Callable[[Tensor], Tensor], reason: str
) -> None:
    model, x = seeded(lambda: Around(operation)), noise(2, 3, 5, 5)
    coupling = coupled(model, x)
    pinned = {group.name: group.reason for group in coupling.pinned}
    assert "stem" in pinned
    assert reason in pinned["stem"]
    keep = random_keep(coupling, 0)
    assert distance(narrowed(coupling, keep, x), masked(coupling, keep, x)) <= TOLERANCE


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_limits_that_are_one_number_for_all_channels_pin_nothing(shape: tuple[int, ...]) -> None:
    def between(x: Tensor) -> Tensor:
        low, high = torch.full(shape, -0.2, dtype=x.dtype), torch.full(shape, 0.7, dtype=x.dtype)
        return torch.clamp(x, low, high)

    model, x = seeded(lambda: Around(between)), noise(2, 3, 5, 5)
    coupling = coupled(model, x)
    for seed in SEEDS:
        keep = random_keep(coupling, seed)
        assert "stem" in keep
        assert distance(narrowed(coupling, keep, x), masked(coupling, keep, x)) <= TOLERANCE


RESIZED: list[tuple[nn.Module, dict[str, int], dict[str, int]]] = [
    (nn.Linear(6, 4), {"weight": 0, "bias": 0}, {"out_features": 3, "in_features": 6}),
    (nn.Conv1d(6, 4, 3), {"weight": 1}, {"out_channels": 4, "in_channels": 5}),
    (nn.Conv3d(6, 4, 1), {"weight": 0, "bias": 0}, {"out_channels": 3, "in_channels": 6}),
    (nn.Conv2d(6, 4, 3, groups=2), {"weight": 1}, {"out_channels": 4, "in_channels": 4, "groups": 2}),
    (nn.Conv2d(4, 4, 3, groups=4), {"weight": 0}, {"out_channels": 3, "in_channels": 3, "groups": 3}),
    (nn.BatchNorm2d(4), {"weight": 0}, {"num_features": 3}),
    (nn.BatchNorm1d(4, affine=False), {"running_mean": 0}, {"num_features": 3}),
    (nn.PReLU(4), {"weight": 0}, {"num_parameters": 3}),
]


@pytest.mark.parametrize(("module", "cut", "attributes"), RESIZED)
def test_a_modules_attributes_follow_its_weights(
    module: nn.Module, cut: dict[str, int], attributes: dict[str, int]
) -> None:
    for name, axis in cut.items():
        value = getattr(module, name).detach()
        shorter = value.narrow(axis, 0, value.shape[axis] - 1)
        setattr(module, name, nn.Parameter(shorter) if name in dict(module.named_parameters()) else shorter)
    family = family_of(module)
    assert family is not None
    family.resize(module)
    assert {name: getattr(module, name) for name in attributes} == attributes


def test_a_depthwise_layer_with_two_filters_a_channel_is_resized() -> None:
    module = nn.Conv2d(4, 8, 3, groups=4)
    module.weight = nn.Parameter(module.weight.detach()[:6])
    family = family_of(module)
    assert family is not None
    family.resize(module)
    assert (module.out_channels, module.in_channels, module.groups) == (6, 3, 3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_macs_are_one_for_each_product_of_a_weight(rank: int) -> None:
    model = seeded(lambda: nn.Sequential(CONV[rank](3, 8, 2), nn.ReLU(), CONV[rank](8, 4, 1)))
    coupling = coupled(model, noise(2, 3, *[5] * rank))
    alive = coupling.alive({"0": random_keep(coupling, 0)["0"]})
    kept = int(alive.mask(coupling.groups[0].roots).sum())
    counts = {
        node.name: rule.macs(node, alive.shape)
        for node in coupling.graph.nodes.values()
        if (rule := operation_for(node.operation)) is not None
    }
    positions, batch = 4**rank, 2
    assert sorted(filter(None, counts.values())) == sorted(
        [batch * positions * kept * 3 * 2**rank, batch * positions * 4 * kept]
    )


def test_every_family_is_named_once_and_serves_handles_of_its_own() -> None:
    handles = [handle for member in OPERATIONS.values() for handle in member.handles]
    assert len(handles) == len(set(handles))
    assert operation_for("no_such_operation") is None
    assert family_of(nn.Identity()) is None
