"""torch's own multi-head attention without some of its heads."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from nets import noise, seeded
from plans import coupled, distance, masked, plan_of
from torch import Tensor, nn

from edgeprune.graph.groups import flatten_outputs
from edgeprune.graph.narrowed_attention import NarrowedMultiheadAttention, narrow_attention
from edgeprune.stages.shrink import restore, shrink

PADDING = torch.tensor([[False, False, False, True, True], [False, True, False, False, False]])
CAUSAL = torch.triu(torch.ones(4, 5, dtype=torch.bool), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"bias": False},
        {"kdim": 6, "vdim": 10, "batch_first": True},
        {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"need_weights": False},
        {"average_attn_weights": False, "key_padding_mask": PADDING},
        {"attn_mask": CAUSAL, "need_weights": False},
        {
            "attn_mask": torch.linspace(-1, 1, 160, dtype=torch.float64).reshape(8, 4, 5),
            "key_padding_mask": PADDING,
        },
    ],
    ids=lambda call: " ".join(call) or "plain",
)
def test_with_all_its_heads_it_says_what_torchs_says(options: dict[str, Any], call: dict[str, Any]) -> None:
    whole = seeded(lambda: nn.MultiheadAttention(8, 4, **options))
    assert isinstance(whole, nn.MultiheadAttention)
    whole.requires_grad_(False)
    narrowed = copy.deepcopy(whole)
    narrow_attention(narrowed)
    query, key, value = noise(2, 4, 8), noise(2, 5, whole.kdim, seed=2), noise(2, 5, whole.vdim, seed=3)
    given = [query, key, value] if whole.batch_first else [x.transpose(0, 1) for x in (query, key, value)]
    expected, found = whole(*given, **call), narrowed(*given, **call)
    assert distance((found[0],), (expected[0],)) <= 1e-12
    assert (found[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        assert distance((found[1],), (expected[1],)) <= 1e-12
    if not call:  # without a batch
        lone = [x[0] if whole.batch_first else x[:, 0] for x in given]
        pairs = zip(narrowed(*lone), whole(*lone), strict=True)
        assert all(distance((a,), (b,)) <= 1e-12 for a, b in pairs)


class Read(nn.Module):
    """An encoder of torch's own layers, with a head that reads it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return self.out(self.encoder(x, src_key_padding_mask=hidden))


@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_of_torch_loses_heads_and_stays_the_users_module(frozen: bool) -> None:
    model, x = seeded(Read).requires_grad_(not frozen), noise(2, 5, 8)
    coupling = coupled(model, x, PADDING)
    sizes = {group.name: group.size for group in coupling.groups}
    heads = [f"encoder.layers.{k}.self_attn.in_proj_weight" for k in (0, 1)]
    hidden = [f"encoder.layers.{k}.linear1" for k in (0, 1)]
    assert sizes == {**dict.fromkeys(heads, 4), **dict.fromkeys(hidden, 12)}
    keep = dict(zip(heads + hidden, (np.array(k) for k in ([1, 3], [0], [0, 4, 5], [2, 11])), strict=True))
    shrunk = shrink(model, coupling, plan_of(keep), [x, PADDING])
    assert shrunk.kind == "module", shrunk.reason
    assert isinstance(shrunk.module, Read)
    attention = shrunk.module.encoder.layers[0].self_attn
    assert isinstance(attention, NarrowedMultiheadAttention)
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, 2, 8)
    assert attention.in_proj_weight.shape == (12, 8)
    with torch.no_grad():
        found = flatten_outputs(shrunk.module(x, PADDING))
    assert distance(found, masked(coupling, keep, x, PADDING)) <= 1e-12
    again = restore(model, coupling, shrunk.cuts, shrunk.module.state_dict())
    with torch.no_grad():
        assert distance(flatten_outputs(again.module(x, PADDING)), found) == 0
    if not frozen:
        shrunk.module.train()(x, PADDING).sum().backward()
        assert attention.in_proj_weight.grad is not None
