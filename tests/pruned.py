"""Nets around one operation, with units removed at random: what the bounds are tried on."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from plans import coupled, random_keep
from torch import Tensor, nn

from edgeprune.certificates.twins import Pair, twins_of
from edgeprune.graph.groups import flatten_outputs
from edgeprune.stages.shrink import narrow_graph


class Of(nn.Module):
    """A function as a net, between two layers so that channels can be removed."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding="same"), nn.BatchNorm2d(6)
        self.function = function
        self.slope = nn.PReLU(6)
        self.slope.weight.data.uniform_(-0.2, 0.6)
        self.offset = nn.Parameter(torch.randn(1, 1, 4, 4))
        made = function(self.slope(torch.zeros(1, 6, 4, 4)))
        self.head = nn.Linear(made[0].numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.slope(self.norm(self.stem(x))) * 0.5 + self.offset
        return self.head(self.function(h).flatten(1))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: torch.clamp(x, min=0.1),
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.3),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "tanh": torch.tanh,
    "step": lambda x: (x >= 0).to(x.dtype) + 0.1 * x,
    "strict step": lambda x: torch.where(x > 0, 1.0, 0.0).to(x.dtype),
    "heaviside": lambda x: torch.heaviside(x, torch.ones((), dtype=x.dtype)),
    "erf": torch.erf,
    "exp": torch.exp,
    "square": torch.square,
    "log": lambda x: torch.log(F.softplus(x) + 0.1),
    "sqrt": lambda x: torch.sqrt(torch.sigmoid(x)),
    "rsqrt": lambda x: torch.rsqrt(torch.sigmoid(x) + 0.5),
    "reciprocal": lambda x: 1 / (torch.exp(x) + 1),
    "neg": lambda x: -x + abs(x),
    "sub": lambda x: 2.0 - 3.0 * x - x.relu() / 4.0,
    "rsub": lambda x: torch.rsub(x, torch.tanh(x), alpha=2),
    "alpha": lambda x: torch.add(x, torch.tanh(x), alpha=0.3),
    "mul": lambda x: x * torch.sigmoid(x),
    "power": lambda x: x * x,
    "maximum": lambda x: torch.maximum(x, torch.tanh(x)),
    "minimum": lambda x: torch.minimum(x, 0.5 * x),
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x: F.avg_pool2d(x, 2, 1, 1, count_include_pad=False),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 3),
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: x.sum(3),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin(2),
    "softmax": lambda x: x.softmax(2),
    "log_softmax": lambda x: x.log_softmax(3),
    "cat": lambda x: torch.cat([x, x.relu(), x[:, :3]], 1),
    "split": lambda x: x.split([2, 4], 1)[1] * 2,
    "chunk": lambda x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1],
    "permute": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2),
    "pad": lambda x: F.pad(x, (1, 0, 0, 1), value=0.7),
    "pad_reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1),
    "squeeze": lambda x: x.mean(3, keepdim=True).squeeze(3).unsqueeze(1),
    "contiguous": lambda x: F.dropout(x.permute(0, 1, 3, 2).contiguous(), 0.5, training=False).clone(),
}


def prune(model: nn.Module, x: Tensor, seed: int) -> tuple[Pair, Callable[[tuple[Tensor, ...]], Tensor]]:
    """Random units removed; the twins, and the difference of both nets' outputs."""
    coupling = coupled(model, x)
    alive = coupling.alive(random_keep(coupling, seed))
    small = narrow_graph(coupling.graph, alive, {})

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        pairs = zip(flatten_outputs(model(*inputs)), flatten_outputs(small(*inputs)), strict=True)
        return torch.cat([(a - b).flatten(1) for a, b in pairs], 1)

    return twins_of(coupling.graph, small, alive, (x[:1],)), gap


REFUSED = {"normed by group": "group_norm"}
"""Nets that have no deterministic bound, and the operation that their refusal names."""
