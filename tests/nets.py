"""Small nets that several tests prune: each holds one way in which channels hang together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The net in float64 and evaluation mode, with weights and batch-norm statistics from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make().double().eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_()
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2.0)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 2.0)
                    nn.init.normal_(module.bias)
    return net


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal inputs, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(sizes: tuple[int, ...] = (6, 8, 7, 3)) -> nn.Module:
    """Fully connected layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Around(nn.Module):
    """A layer that makes channels, an operation on them, and a layer that reads what came of it.

    Data are (batch, 3, 5…) with `rank` axes of positions.
    """

    def __init__(self, operation: Callable[[Tensor], Tensor], rank: int = 2, channels: int = 8) -> None:
        super().__init__()
        self.stem = CONV[rank](3, channels, 2)
        self.operation = operation
        with torch.no_grad():
            made = operation(self.stem(torch.zeros(2, 3, *[5] * rank)))
        self.head = (
            nn.Linear(made.shape[1], 6) if made.dim() == 2 else CONV[made.dim() - 2](made.shape[1], 6, 1)
        )
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.head(self.operation(self.stem(x))))
        return self.last(h if h.dim() == 2 else h.flatten(2).mean(2))


class Several(nn.Module):
    """Nets side by side on one input; each gives an output."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(net(x) for net in self.nets)


class Residual(nn.Module):
    """A stream that two blocks add to; the second changes the width through a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.a1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.abn = nn.BatchNorm2d(6)
        self.a2 = nn.Conv2d(6, 8, 3, padding=1)
        self.b1 = nn.Conv2d(8, 10, 3, padding=1, stride=2)
        self.b2 = nn.Conv2d(10, 12, 3, padding=1)
        self.project = nn.Conv2d(8, 12, 1, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.stem(x)))
        h = F.relu(h + self.a2(F.relu(self.abn(self.a1(h)))))
        h = F.relu(self.project(h) + self.b2(F.relu(self.b1(h))))
        return self.head(h.mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual: 1×1, depthwise with two filters a channel, 1×1."""

    def __init__(self, multiplier: int = 1) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8 * multiplier, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8 * multiplier, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.depth(F.relu6(self.expand(x))))
        return self.head(self.project(h).mean((2, 3)))


class Grouped(nn.Module):
    """A convolution in two groups between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.after = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.relu(self.grouped(F.relu(self.before(x))))).mean((2, 3))


class Dense(nn.Module):
    """Features concatenated with those before them, then cut in two and multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, padding=1)
        self.c = nn.Conv2d(10, 8, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        both = torch.cat([a, F.relu(self.b(a))], 1)
        left, right = self.c(both).chunk(2, 1)
        return self.head((left * torch.sigmoid(right)).mean((2, 3)))


class Gate(nn.Module):
    """Squeeze and excitation: channels scaled by what a small net makes of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.head(h * gate).mean((2, 3))


class Flattened(nn.Module):
    """Convolution, batch norm and pooling, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6 * 4, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.out(F.relu(self.hidden(h.flatten(1))))


class Written(nn.Module):
    """A forward with a size written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 3, padding=1)
        self.classifier = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        return self.classifier(h.permute(0, 2, 1).reshape(-1, 48))


class Remembered(nn.Module):
    """Keeps the size that its forward reshapes to as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 3, padding=1)
        self.in_features = 8 * 6
        self.classifier = nn.Linear(self.in_features, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        return self.classifier(h.permute(0, 2, 1).reshape(-1, self.in_features))


class Shuffled(nn.Module):
    """Two halves of the channels interleaved, as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        batch, channels, high, wide = h.shape
        h = h.view(batch, 2, channels // 2, high, wide).transpose(1, 2).reshape(batch, -1, high, wide)
        return self.head(F.relu(self.grouped(F.relu(h)))).mean((2, 3))


class Tied(nn.Module):
    """Two layers that share one weight tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.inner(x))
        return self.out(F.relu(self.second(F.relu(self.first(h)))))


class Tokens(nn.Module):
    """A feed-forward block on tokens behind a layer norm, with a residual stream that is pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 9)
        self.down = nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class NormedByGroup(nn.Module):
    """Group norm between convolutions: its channels hang together, and it has no form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)
        self.body, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (2, 6)),
    "residual": (Residual, (2, 3, 6, 6)),
    "depthwise": (Depthwise, (2, 3, 5, 5)),
    "depthwise-2": (lambda: Depthwise(2), (2, 3, 5, 5)),
    "grouped": (Grouped, (2, 3, 6, 6)),
    "dense": (Dense, (2, 3, 5, 5)),
    "gate": (Gate, (2, 3, 6, 6)),
    "flattened": (Flattened, (2, 3, 6, 6)),
    "written": (Written, (2, 1, 6)),
    "shuffled": (Shuffled, (2, 3, 5, 5)),
    "tied": (Tied, (2, 6)),
    "tokens": (Tokens, (2, 4, 6)),
    "normed by group": (NormedByGroup, (2, 3, 6, 6)),
}
"""By name: how the net is made, and the shape of an input."""


def net(name: str) -> tuple[nn.Module, Tensor]:
    """One of the nets above with an input for it."""
    make, shape = NETS[name]
    return seeded(make), noise(*shape)


def call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[Tensor], Tensor]:
    """The function with all but its first argument given."""
    return lambda x: function(x, *arguments, **named)
