"""A VGG-like net with batch norms on MNIST, pruned by every method: test error and logit error.

    python -m benchmarks.vgg [--quick] [--json FILE] [--resume] [--method NAME]

The same as benchmarks.cnn for a plain stack of convolutions with batch norms, pooling and two linear layers,
which `python -m benchmarks.train_cnn --net vgg` trains.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.cnn import images
from benchmarks.harness import by_size, options
from edgeprune.errors import ModelError

WEIGHTS = Path(__file__).resolve().parent / ".cache" / "vgg.safetensors"
PLAN = (32, 32, 0, 64, 64, 0, 128, 128, 0)
"""Channels of each convolution; 0 halves the picture."""
HIDDEN = 128
LAYOUT = by_size


class Vgg(nn.Module):
    """Logits of ten classes from one grey channel.

    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
    ICLR 2015, here with batch norms and for 28 × 28 pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in PLAN:
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(before * 9, HIDDEN)
        self.head = nn.Linear(HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of pixels in [0, 1], float32 (batch, 1, 28, 28)."""
        x = self.features(x).flatten(1)
        return self.head(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


def build() -> Vgg:
    """The trained net, ready for inference.

    Raises:
        ModelError: it has not been trained here yet.
    """
    if not WEIGHTS.is_file():
        raise ModelError(
            f"{WEIGHTS}: no weights yet; run 'python -m benchmarks.train_cnn --net vgg' (some minutes)."
        )
    net = Vgg()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def example_inputs() -> tuple[Tensor]:
    """One batch of one image of seeded noise, float32 (1, 1, 28, 28) in [0, 1]."""
    return (torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)),)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a line of the table; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    images(chosen, "VGG-like net on MNIST", build(), LAYOUT)


if __name__ == "__main__":
    main()
