"""Random nets over tokens: attention of several kinds, gates, mixers and norms, pruned at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import noise, seeded
from plans import coupled, distance, masked, plan_of, random_keep
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from edgeprune.graph.groups import flatten_outputs
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import choose
from edgeprune.stages.shrink import narrow_graph, restore, shrink
from edgeprune.widths.budget import Budget, Multiples

TOKENS, WIDTH, HEADS = 5, 8, 4
KINDS = ("fused", "torch", "grouped", "mlp", "gated", "mixer", "normed", "spectral", "conv")
LAYERS = st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=4)


class Layer(nn.Module):
    """One way in which tokens hear each other or their own channels, behind a norm or not."""

    def __init__(self, kind: str, norm: bool) -> None:
        super().__init__()
        self.kind = kind
        self.num_heads, self.kv_heads, self.head_dim = HEADS, HEADS // 2, WIDTH // HEADS
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        match kind:
            case "fused":
                self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
            case "torch":
                self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            case "grouped":
                self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * self.kv_heads * self.head_dim)
            case "mlp" | "gated":
                self.up = nn.Linear(WIDTH, 12)
            case "mixer":
                self.up = nn.Linear(TOKENS, 6)
            case "normed":
                self.up = weight_norm(nn.Linear(WIDTH, 7))
            case "spectral":
                self.up = spectral_norm(nn.Linear(WIDTH, 7))
            case _:
                self.up = nn.Conv1d(WIDTH, 6, 3, padding=1)
        after = {"mlp": 12, "gated": 6, "normed": 7, "spectral": 7, "conv": 6}.get(kind, WIDTH)
        wrap = {"normed": weight_norm, "spectral": spectral_norm}.get(kind, lambda layer: layer)
        self.back = wrap(nn.Linear(6, TOKENS) if kind == "mixer" else nn.Linear(after, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        match self.kind:
            case "fused":
                parted = self.qkv(h).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
                h = F.scaled_dot_product_attention(*parted.unbind()).transpose(1, 2).flatten(2)
            case "torch":
                h = self.attention(h, h, h, need_weights=False)[0]
            case "grouped":
                q = self.q(h).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
                k, v = (
                    self.kv(h).unflatten(2, (2, self.kv_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
                )
                h = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
            case "gated":
                left, right = self.up(h).chunk(2, -1)
                h = left * F.silu(right)
            case "mixer":
                return x + self.back(torch.tanh(self.up(h.transpose(1, 2)))).transpose(1, 2)
            case "conv":
                h = torch.tanh(self.up(h.transpose(1, 2))).transpose(1, 2)
            case _:
                h = F.gelu(self.up(h))
        return x + self.back(h)


class Net(nn.Module):
    """An embedding of channels, random layers, and a head."""

    def __init__(self, layers: list[tuple[str, bool]]) -> None:
        super().__init__()
        self.embed = nn.Linear(3, WIDTH)
        self.layers = nn.Sequential(*(Layer(*layer) for layer in layers))
        self.out = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.embed(x)).mean(1))


@pytest.mark.slow
@settings(max_examples=8)
@given(layers=LAYERS, seed=st.integers(0, 1000))
def test_a_random_net_over_tokens_shrunk_is_the_net_masked(layers: list[tuple[str, bool]], seed: int) -> None:
    model, x = seeded(lambda: Net(layers), seed), noise(2, TOKENS, 3, seed=seed)
    with torch.no_grad():
        model(x)
    coupling = coupled(model, x)
    keep = random_keep(coupling, seed)
    heard = masked(coupling, keep, x)
    scale = 1e-9 * max(1.0, float(heard[0].abs().max()))
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert shrunk.masking <= scale
    with torch.no_grad():
        found = flatten_outputs(shrunk.module(x))
        assert distance(found, heard) <= scale
        again = restore(model, coupling, shrunk.cuts, shrunk.module.state_dict())
        assert distance(flatten_outputs(again.module(x)), found) == 0
    plans = []
    for _ in range(2):
        coupling = coupled(model, x)
        plan = choose(
            coupling, allocate(coupling, Budget("keep", 0.5), Multiples()), "magnitude", None, seed=0
        )
        plans.append({name: kept.tolist() for name, kept in plan.keep.items()})
    assert plans[0] == plans[1]


@pytest.mark.slow
@settings(max_examples=5)
@given(layers=LAYERS, seed=st.integers(0, 1000))
def test_units_over_tokens_that_contribute_nothing_go_without_a_change(
    layers: list[tuple[str, bool]], seed: int
) -> None:
    plain = [layer for layer in layers if layer[0] not in ("normed", "spectral")] or [("mlp", True)]
    model, x = seeded(lambda: Net(plain), seed), noise(2, TOKENS, 3, seed=seed)
    coupling = coupled(model, x)
    keep = random_keep(coupling, seed)
    silent = dict(coupling.graph.weights)
    for group in coupling.groups:
        gone = np.setdiff1d(np.arange(group.size), keep[group.name])
        for reader in group.readers:
            if reader.weight is not None:
                place = next(p for p in group.places if (p.weight, p.axis) == (reader.weight, reader.axis))
                index = torch.from_numpy(np.flatnonzero(np.isin(place.units, gone)))
                silent[reader.weight] = silent[reader.weight].index_fill(place.axis, index, 0.0)
    whole, _ = coupling.graph.run([x], silent)
    small = narrow_graph(coupling.graph, coupling.alive(keep), silent)
    with torch.no_grad():
        assert distance(flatten_outputs(small(x)), whole) <= 1e-9 * max(1.0, float(whole[0].abs().max()))
