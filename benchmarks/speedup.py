"""What `--speedup 2.0` gives: the speed-up that was asked for beside the one that the finished files show.

    python -m benchmarks.speedup [--quick] [--json FILE] [--net NAME ...] [--asked TIMES]

MobileNetV2 and ResNet-18 (torchvision's, 224 × 224) and CREPE full (pitch, 1 024 samples), batch 1, one
thread, the same share of every group. Weights are random: only shapes matter for time. Each net goes
through `edgeprune run`, and the figure is that of its validation: both finished ONNX files, paired in fresh
processes, apart from what allocation measured on its way. With `--net` other nets that stand in FILE stay
there. The first run of a net also measures its layers (a minute or two); `--quick` asks for LeNet-like
CREPE tiny only.

Source of CREPE's shape: Kim, Salamon, Li and Bello, "CREPE: a convolutional representation for pitch
estimation", ICASSP 2018, figure 1.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import ENVIRONMENT, Row, by_figure, environment_rows, finish, load, options
from benchmarks.zoo_models import import_torchvision
from edgeprune import compress

LAYOUT = by_figure
QUICK = "CREPE tiny"


class Crepe(nn.Module):
    """Six convolutions over one frame of sound, each with a batch norm and a pool, and 360 pitches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [1, *(width * k for k in (32, 4, 4, 4, 8, 16))]
        self.kernels, self.strides = (512, 64, 64, 64, 64, 64), (4, 1, 1, 1, 1, 1)
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, k, stride=s)
            for a, b, k, s in zip(channels[:-1], channels[1:], self.kernels, self.strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in channels[1:])
        self.classifier = nn.Linear(4 * channels[-1], 360)

    def forward(self, x: Tensor) -> Tensor:
        """Frames (n, 1, 1024) → pitches (n, 360)."""
        for conv, norm, kernel, stride in zip(
            self.convs, self.norms, self.kernels, self.strides, strict=True
        ):
            before = (kernel - stride) // 2
            x = F.max_pool1d(norm(F.relu(conv(F.pad(x, (before, kernel - stride - before))))), 2)
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1).flatten(1)))


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision()
        import torchvision

        return torchvision.models.get_model(name, weights=None)  # type: ignore[no-any-return]

    return build


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MobileNetV2": (_torchvision("mobilenet_v2"), (1, 3, 224, 224)),
    "ResNet-18": (_torchvision("resnet18"), (1, 3, 224, 224)),
    "CREPE full": (lambda: Crepe(32), (1, 1, 1024)),
    QUICK: (lambda: Crepe(4), (1, 1, 1024)),
}


def measured(name: str, asked: float) -> list[Row]:
    """Asked and measured, for one net."""
    build, shape = NETS[name]
    torch.manual_seed(0)
    net, begun = build().eval(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        record = compress(
            net, torch.randn(shape), output=Path(work) / "run", speedup=asked, target=("cpu-1t",),
            method="magnitude", certify=False,
        )  # fmt: skip
    latency, plan = record.validations[0].latency, record.plan
    assert latency is not None
    assert plan is not None
    assert plan.allocation is not None
    first = plan.allocation.candidates[0]
    figures: list[tuple[str, float | int, str]] = [
        ("asked", asked, "×"),
        ("measured", 1 / latency.ratio, "×"),
        ("low", 1 / latency.ratio_high, "×"),
        ("high", 1 / latency.ratio_low, "×"),
        ("off by", 100 * abs(1 / latency.ratio / asked - 1), "%"),
        ("first prediction", 1 / first.predicted, "×"),
        ("candidates measured", len(plan.allocation.candidates), ""),
        ("parameters left", 100 * plan.params[1] / plan.params[0], "%"),
        ("the whole run", time.monotonic() - begun, "s"),
    ]
    return [Row(name, "", "", figure, value, unit, 0) for figure, value, unit in figures]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--net", action="append", choices=list(NETS), help="only this net; repeatable")
    parser.add_argument("--asked", type=float, default=2.0, metavar="TIMES")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = chosen.net or ([QUICK] if chosen.quick else [name for name in NETS if name != QUICK])
    kept: list[Row] = []
    if chosen.net and chosen.json is not None and chosen.json.is_file():
        kept = [row for row in load(chosen.json) if row.subject not in (*names, ENVIRONMENT)]
    rows = [*environment_rows(), *kept]
    for name in names:
        rows += measured(name, chosen.asked)
        print(f"{name}: {[dataclasses.astuple(row)[3:6] for row in rows[-9:]]}", file=sys.stderr)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
