"""Every operation of every registered family: what is cut out equals what is read as zeros.

Each handle is called by its ATen name between a layer that makes channels and one that reads them,
the channels are removed at random, and the narrowed graph is held against the masked one in
float64. An operation that keeps its channels by nature is listed, with what must be pinned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import CONV, NETS, Around, call, net, noise, seeded
from plans import coupled, distance, masked, muted, narrowed, random_keep
from torch import Tensor, nn

from edgeprune.graph import Coupling
from edgeprune.ops import OPERATIONS, family_of, operation_for
from edgeprune.ops.pointwise import ACTIVATIONS

aten = torch.ops.aten
SEEDS = range(3)
TOLERANCE = 1e-9


def after(before: Callable[[Tensor], Tensor], operation: Any) -> Callable[[Tensor], Tensor]:
    """The operation on what `before` makes of the data."""
    return lambda x: operation(before(x))


def positive(x: Tensor) -> Tensor:
    return x * x + 0.5


def mixed(operation: Any) -> Callable[[Tensor], Tensor]:
    """An operation of two tensors that hold the same channels."""
    return lambda x: operation(x, torch.tanh(x) + 2.0)


class Slope(nn.Module):
    """PReLU with a slope for each channel, not all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.PReLU(8)
        nn.init.uniform_(self.act.weight, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


ON_CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    # activations and other functions of one tensor
    **{name: call(getattr(F, name)) for name in ACTIVATIONS if name not in ("sigmoid", "tanh")},
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "dropout": call(aten.dropout, 0.5, False),
    "feature_dropout": call(aten.feature_dropout, 0.5, False),
    "alpha_dropout": call(aten.alpha_dropout, 0.5, False),
    "clone": aten.clone,
    "contiguous": aten.contiguous,
    "detach": aten.detach,
    "alias": aten.alias,
    "to": after(torch.sigmoid, lambda x: x.to(torch.float32).to(torch.float64)),
    "_to_copy": call(aten._to_copy, dtype=torch.float64),
    "type_as": mixed(aten.type_as),
    "neg": torch.neg,
    "abs": torch.abs,
    "exp": after(torch.tanh, torch.exp),
    "log": after(positive, torch.log),
    "sqrt": after(positive, torch.sqrt),
    "rsqrt": after(positive, torch.rsqrt),
    "square": torch.square,
    "reciprocal": after(positive, torch.reciprocal),
    "erf": torch.erf,
    "clamp": call(torch.clamp, -0.2, 0.7),
    "clamp_min": call(aten.clamp_min, -0.1),
    "clamp_max": call(aten.clamp_max, 0.3),
    "prelu": Slope(),
    # arithmetic
    "add": mixed(torch.add),
    "sub": mixed(torch.sub),
    "rsub": mixed(aten.rsub),
    "mul": mixed(torch.mul),
    "div": mixed(torch.div),
    "maximum": mixed(torch.maximum),
    "minimum": mixed(torch.minimum),
    # positions are pooled, reduced and normalised over; channels are handed on
    "max_pool2d": call(F.max_pool2d, 2, 1),
    "avg_pool2d": call(F.avg_pool2d, 3, 1, 1),
    "adaptive_avg_pool2d": call(F.adaptive_avg_pool2d, 2),
    "adaptive_max_pool2d": call(F.adaptive_max_pool2d, 2),
    "mean": call(torch.mean, (2, 3)),
    "sum": call(torch.sum, (3,), keepdim=True),
    "amax": call(torch.amax, -1),
    "amin": call(torch.amin, (2, -1)),
    "softmax": call(torch.softmax, -1),
    "log_softmax": call(torch.log_softmax, 2),
    "_softmax": call(aten._softmax, 3, False),
    "_log_softmax": call(aten._log_softmax, 3, False),
    "batch_norm": nn.BatchNorm2d(8),
    "layer_norm": nn.LayerNorm(4),
    "rms_norm": nn.RMSNorm([4, 4]),
    # channels are moved, cut and joined
    "view": lambda x: x.view(-1, 8 * 16),
    "reshape": lambda x: x.reshape(x.shape[0], 8, 16),
    "_unsafe_view": call(aten._unsafe_view, [2, 8, 16]),
    "flatten": call(torch.flatten, 1, 2),
    "unflatten": lambda x: x.unflatten(1, (2, 4)).flatten(1, 2),
    "squeeze": lambda x: x[:, :, :1].squeeze(2),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "permute": lambda x: x.permute(0, 3, 1, 2).flatten(1, 2),
    "transpose": lambda x: x.transpose(1, -1).reshape(2, -1),
    "swapaxes": lambda x: aten.swapaxes(x, 1, 2).flatten(1),
    "t": lambda x: aten.t(aten.t(x.mean((2, 3)))),
    "numpy_T": lambda x: aten.numpy_T(aten.numpy_T(x)),
    "cat": lambda x: torch.cat([x, torch.relu(x)], 1),
    "concat": lambda x: aten.concat([torch.relu(x), x], -3),
    "concatenate": lambda x: aten.concatenate([x, torch.relu(x), x], 1),
    "chunk": lambda x: torch.mul(*x.chunk(2, 1)),
    "split": lambda x: torch.add(*x.split(4, 1)),
    "split_with_sizes": lambda x: x.split([3, 5], -3)[1],
    "tensor_split": lambda x: aten.tensor_split(x, 3, 1)[0],
    "getitem": lambda x: torch.cat(x.chunk(4, 1)[1:], 1),
    "slice": lambda x: x[:, 2:-1],
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, 8, 3, 3),
    "pad": call(F.pad, (1, 1, 0, 2), value=0.5),
    "constant_pad_nd": call(aten.constant_pad_nd, [0, 0, 1, 0, 1, 2], 0.25),
}
"""Handle → an operation on data (2, 8, 4, 4); what it makes has channels to remove."""

OTHER_RANKS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "conv1d": (1, torch.relu),
    "conv2d": (2, torch.relu),
    "conv3d": (3, torch.relu),
    "linear": (1, lambda x: x.mean(2)),
    **{
        f"{kind}_pool{rank}d": (rank, call(getattr(F, f"{kind}_pool{rank}d"), 2))
        for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
        for rank in (1, 3)
    },
}
"""Handle → the number of position axes, and an operation on (2, 8, 4…)."""

NOT_NARROWED = {"native_dropout": "returns a pair, and evaluation mode does not make it"}
"""Handles that no net is known to reach with channels to remove, and why."""


def build(handle: str) -> tuple[nn.Module, Tensor]:
    rank, operation = OTHER_RANKS.get(handle) or (2, ON_CHANNELS[handle])
    return seeded(lambda: Around(operation, rank)), noise(2, 3, *[5] * rank)


def narrows(coupling: Coupling, handle: str, seed: int) -> bool:
    """Whether the plan takes something from what an operation of this name reads or makes."""
    alive = coupling.alive(random_keep(coupling, seed))
    nodes = [node for node in coupling.graph.nodes.values() if node.operation == handle]
    if handle == "getitem":
        return any(not alive.whole(node.name) for node in nodes)
    return any(not alive.whole(name) for node in nodes for name in node.sources() if coupling.axes[name])


@pytest.mark.parametrize("handle", sorted({*ON_CHANNELS, *OTHER_RANKS}))
def test_narrowing_an_operation_equals_masking_its_readers(handle: str) -> None:
    model, x = build(handle)
    coupling = coupled(model, x)
    assert operation_for(handle) is not None
    assert any(narrows(coupling, handle, seed) for seed in SEEDS), f"nothing is removed around {handle}"
    whole = coupling.graph.run([x])[0]
    for seed in SEEDS:
        keep = random_keep(coupling, seed)
        heard = masked(coupling, keep, x)
        assert distance(narrowed(coupling, keep, x), heard) <= TOLERANCE
        assert distance(muted(model, coupling, keep, x), heard) <= TOLERANCE
        assert distance(whole, heard) > 1e-6, "the removed channels made no difference: the test is blind"


def test_every_handle_is_exercised_or_its_absence_explained() -> None:
    handles = {handle for member in OPERATIONS.values() for handle in member.handles}
    exercised = {*ON_CHANNELS, *OTHER_RANKS}
    assert exercised & set(NOT_NARROWED) == set()
    assert exercised | set(NOT_NARROWED) == handles


@pytest.mark.parametrize("name", sorted(NETS))
def test_narrowing_a_whole_net_equals_masking_it(name: str) -> None:
    model, x = net(name)
    coupling = coupled(model, x)
    wider = noise(5, *x.shape[1:], seed=2)
    for seed in SEEDS:
        keep = random_keep(coupling, seed)
        heard = masked(coupling, keep, x)
        assert distance(narrowed(coupling, keep, x), heard) <= TOLERANCE
        assert distance(muted(model, coupling, keep, x), heard) <= TOLERANCE
        # the batch size stays free in what was narrowed
        assert distance(narrowed(coupling, keep, wider), masked(coupling, keep, wider)) <= TOLERANCE


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
        (lambda x: torch.flip(x, [1]), "no rule for aten.flip.default"),
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
