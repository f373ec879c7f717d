"""LeNet-300-100, the fully connected classifier of handwritten digits: 784 → 300 → 100 → 10.

Inputs are the 28 × 28 pixels of a digit, row by row, as float32 in [0, 1]; outputs are ten logits.

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE, 1998.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).resolve().parent / "lenet_300_100.safetensors"
"""The bundled weights; Apache-2.0, trained on MNIST."""

PIXELS = 784


class LeNet300100(nn.Module):
    """Three fully connected layers with ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of pixels in [0, 1], float32 (batch, 784)."""
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]


def build() -> LeNet300100:
    """The trained net, ready for inference."""
    net = LeNet300100()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def example_inputs() -> tuple[Tensor]:
    """One batch of one image of seeded noise, float32 (1, 784) in [0, 1]."""
    return (torch.rand(1, PIXELS, generator=torch.Generator().manual_seed(0)),)
