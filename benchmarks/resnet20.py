"""A ResNet-20 for 28 × 28 grey images: the residual network with batch norms of the benchmarks.

Three stages of three blocks, 16, 32 and 64 channels wide; a 1 × 1 projection where a stage begins.

Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2
(there with shortcuts without weights; here with projections, as in its option B).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.errors import ModelError

WEIGHTS = Path(__file__).resolve().parent / ".cache" / "resnet20.safetensors"


class Block(nn.Module):
    """Two 3 × 3 convolutions around which the input passes unchanged, or projected."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps, float32 (batch, after, height ÷ stride, width ÷ stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """Logits of ten classes from one grey channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = _stage(16, 16, stride=1)
        self.stage2 = _stage(16, 32, stride=2)
        self.stage3 = _stage(32, 64, stride=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of pixels in [0, 1], float32 (batch, 1, 28, 28)."""
        x = F.relu(self.bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(before, after, stride), Block(after, after, 1), Block(after, after, 1))


def build() -> ResNet20:
    """The trained net, ready for inference.

    Raises:
        ModelError: it has not been trained here yet.
    """
    if not WEIGHTS.is_file():
        raise ModelError(f"{WEIGHTS}: no weights yet; run 'python -m benchmarks.train_cnn' (some minutes).")
    net = ResNet20()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def example_inputs() -> tuple[Tensor]:
    """One batch of one image of seeded noise, float32 (1, 1, 28, 28) in [0, 1]."""
    return (torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)),)
