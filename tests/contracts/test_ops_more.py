"""Structures that no single operation makes: attention, recurrence, shared tables, slices, plugins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import noise, seeded
from plans import coupled, distance, masked, narrowed, plan_of, random_keep
from torch import Tensor, nn

from edgeprune import ops, registry
from edgeprune.errors import UnsupportedModel
from edgeprune.graph.calling import positional
from edgeprune.graph.groups import Alive, Axes, Coupling, Flow, Node, flatten_outputs
from edgeprune.ops.operation import Operation
from edgeprune.ops.pointwise import meet
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

TOLERANCE = 1e-9


class Fused(nn.Module):
    """Attention with one matrix for query, key and value, as vision transformers write it."""

    def __init__(self, explicit: bool, heads: int = 4) -> None:
        super().__init__()
        self.explicit, self.heads = explicit, heads
        self.norm = nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(7, heads))
        self.register_buffer("index", torch.randint(0, 7, (5, 5)))

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = self.table[self.index.view(-1)].view(5, 5, -1).permute(2, 0, 1).unsqueeze(0)
        if self.explicit:
            h = ((q * 0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        else:
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return x + self.out(h.transpose(1, 2).reshape(batch, count, -1))


class Grouped(nn.Module):
    """Queries that share the heads of the keys: several a head, or all one."""

    def __init__(self, shared: int) -> None:
        super().__init__()
        self.shared = shared
        self.q, self.kv, self.out = nn.Linear(16, 32), nn.Linear(16, 2 * shared * 8), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q = self.q(x).view(batch, count, 4, 8).transpose(1, 2)
        k, v = self.kv(x).view(batch, count, 2, self.shared, 8).permute(2, 0, 3, 1, 4)
        k, v = (
            t[:, :, None].expand(batch, self.shared, 4 // self.shared, count, 8).reshape(batch, 4, count, 8)
            for t in (k, v)
        )
        h = F.scaled_dot_product_attention(q, k, v)
        return self.out(h.transpose(1, 2).reshape(batch, count, 32))


class Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.attend, self.down = nn.Linear(16, 16), nn.MultiheadAttention(16, 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x).transpose(0, 1)
        return self.down(self.attend(h, h, h, need_weights=False)[0]).transpose(0, 1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.up = nn.Linear(16, 10)
        self.cell = kind(10, 6, batch_first=True, **options)
        self.down = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.cell(torch.tanh(self.up(x)))[0])


class Words(nn.Module):
    """A table read twice: as an embedding and, turned, as the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.back = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[..., 0] > 0).long() + 2
        h = self.table(ids)
        return F.linear(h + self.back(F.relu(self.inner(h))), self.table.weight)


class Parameters(nn.Module):
    """Weights without a layer, contracted by einsum and matmul, one of them turned first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(16, 24)), nn.Parameter(torch.randn(3, 24))
        self.shift = nn.Parameter(torch.randn(24))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.einsum("...c,cd->...d", x, self.a) + self.shift)
        return torch.matmul(h, self.b.t())


class Transposed(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.up = nn.Linear(16, 8)
        self.turn = nn.ConvTranspose1d(8, 8, 3, groups=groups)
        self.out = nn.Conv1d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.turn(self.up(x).transpose(1, 2))))


class Sliced(nn.Module):
    """Halves of one layer's channels that go different ways: neither may lose all of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.left, self.right = nn.Linear(16, 8), nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.up(x)).split([3, 5], -1)
        return self.left(a) * self.right(b)


class Mode(nn.Module):
    """A region in which automatic precision is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            h = F.relu(self.up(x))
        return self.down(h)


NETS: dict[str, Any] = {
    "fused": lambda: Fused(False),
    "fused, explicit": lambda: Fused(True),
    "grouped queries": lambda: Grouped(2),
    "one key head": lambda: Grouped(1),
    "nn.MultiheadAttention": Multihead,
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm, two layers, both ways": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "gru": lambda: Recurrent(nn.GRU),
    "tied embedding": Words,
    "raw parameters": Parameters,
    "transposed": lambda: Transposed(1),
    "transposed, grouped": lambda: Transposed(2),
    "transposed, depthwise": lambda: Transposed(8),
    "slices": Sliced,
    "mode": Mode,
}


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_structure_loses_units_exactly(name: str) -> None:
    model, x = seeded(NETS[name]), noise(2, 5, 16)
    coupling = coupled(model, x)
    assert any(group.size > 1 for group in coupling.groups)
    whole = coupling.graph.run([x])[0]
    for seed in range(4):
        keep = random_keep(coupling, seed)
        heard = masked(coupling, keep, x)
        assert distance(narrowed(coupling, keep, x), heard) <= TOLERANCE
        assert distance(whole, heard) > 1e-6
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert set(shrunk.module.state_dict()) <= {*model.state_dict(), *coupling.graph.weights}
    loss = flatten_outputs(shrunk.module.train()(x))[0].square().mean()
    loss.backward()  # what was shrunk can be trained
    assert all(p.grad is not None for p in shrunk.module.parameters() if p.requires_grad)


def test_heads_are_chosen_and_their_width_is_kept() -> None:
    coupling = coupled(seeded(lambda: Fused(False)), noise(2, 5, 16))
    group = next(group for group in coupling.groups if group.name == "qkv")
    assert group.size == 4
    assert {place.weight for place in group.places} == {"qkv.weight", "qkv.bias", "out.weight", "table"}


def test_slices_of_one_layer_are_groups_of_their_own() -> None:
    coupling = coupled(seeded(Sliced), noise(2, 5, 16))
    assert {group.name: group.size for group in coupling.groups} == {"up[0:3]": 3, "up[3:8]": 5}


def test_a_recurrent_layer_becomes_a_smaller_recurrent_layer() -> None:
    model, x = seeded(lambda: Recurrent(nn.LSTM)), noise(2, 5, 16)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of({"cell.weight_ih_l0": np.array([0, 3, 4])}), [x])
    assert shrunk.kind == "module"
    assert shrunk.module.get_submodule("cell").hidden_size == 3


class Streams(nn.Module):
    """A residual stream behind layer norm or group norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(3, 8, 1), norm
        self.inner, self.back, self.head = nn.Conv1d(8, 6, 1), nn.Conv1d(6, 8, 1), nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        turned = isinstance(self.norm, nn.LayerNorm | nn.RMSNorm)
        n = self.norm(h.transpose(1, 2)).transpose(1, 2) if turned else self.norm(h)
        return self.head(F.relu(h + self.back(F.relu(self.inner(n)))))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8), nn.GroupNorm(1, 8)])
def test_normalised_axes_lose_channels_where_the_user_allows_it(norm: nn.Module) -> None:
    model, x = seeded(lambda: Streams(norm)), noise(2, 3, 5)
    graph = trace(model, [x])
    assert {group.name for group in couple(graph).groups} == {"inner"}
    coupling = couple(graph, allow_norm_axes=True)
    group = next(group for group in coupling.groups if group.name == "stem")
    assert group.approximate.startswith("normalised over by norm")
    keep = {"stem": np.arange(max(1, group.size // 2)), "inner": np.array([0, 1, 4])}
    shrunk = shrink(model, coupling, plan_of(keep), [x])  # compares with a net that normalises what is left
    assert shrunk.kind == "module"
    with torch.no_grad():
        assert distance((shrunk.module(x),), flatten_outputs(shrunk.graph(x))) <= TOLERANCE


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(7, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, *, options: Mapping[str, Any]) -> dict[str, Any]:
        h = self.table(ids) * options["mask"].unsqueeze(-1)
        return {"scores": self.down(F.relu(self.up(h))) * options["scale"], "hidden": (h,)}


def test_keywords_dictionaries_and_numbers_become_plain_inputs() -> None:
    model = seeded(Named)
    options = {"mask": torch.ones(2, 5, dtype=torch.float64), "scale": 2.0}
    bound, inputs = positional(model, (torch.randint(0, 7, (2, 5)),), {"options": options})
    assert list(bound.state_dict()) == list(model.state_dict())
    graph = trace(bound, inputs)
    assert graph.inputs == ("input_0", "options_mask")
    coupling = couple(graph)
    shrunk = shrink(bound, coupling, plan_of(random_keep(coupling, 0)), inputs)
    assert shrunk.kind == "module"
    assert model.up.out_features == 8


def test_coupling_gives_up_in_time_and_names_the_operation() -> None:
    with pytest.raises(UnsupportedModel, match=r"took longer than 0 s; it was at"):
        couple(trace(seeded(Sliced), [noise(2, 5, 16)]), limit_s=0.0)


@torch.library.custom_op("edgeprune_example::soften", mutates_args=())
def soften(x: Tensor, sharpness: float) -> Tensor:
    return torch.sign(x) * torch.log1p(sharpness * x.abs())


@soften.register_fake
def _(x: Tensor, sharpness: float) -> Tensor:
    return torch.empty_like(x)


class Soften(Operation):
    """What another distribution would register under `edgeprune.ops`."""

    name = "soften"
    handles = ("edgeprune_example.soften",)

    def label(self, node: Node, flow: Flow) -> Axes:
        return meet(node, flow)

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        return {}


PLUGIN = Soften()


class Softened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(soften(self.up(x), math.e))


def softened() -> Coupling:
    return coupled(seeded(Softened), noise(2, 5, 16))


def test_a_rule_for_a_custom_operation_comes_from_another_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert softened().groups == ()
    assert "no rule for edgeprune_example.soften" in softened().pinned[0].reason
    point = EntryPoint("soften", f"{__name__}:PLUGIN", "edgeprune.ops")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "edgeprune.ops" else [])
    found: registry.Registry[Operation] = registry.Registry("ops", tuple(ops.OPERATIONS.values()))
    monkeypatch.setattr(ops, "OPERATIONS", found)
    ops._by_handle.cache_clear()
    try:
        coupling = softened()
        keep = random_keep(coupling, 0)
        x = noise(2, 5, 16)
        assert [group.name for group in coupling.groups] == ["up"]
        assert distance(narrowed(coupling, keep, x), masked(coupling, keep, x)) <= TOLERANCE
    finally:
        ops._by_handle.cache_clear()
