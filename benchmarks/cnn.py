"""A ResNet-20 on MNIST pruned by every method: test error and logit error.

    python -m benchmarks.cnn [--quick] [--json FILE] [--resume] [--method NAME]

Every group of channels, the residual streams included, keeps 75, 50 or 25 %. Methods that need data see 500
unlabelled training images; `synthetic inputs` sees none, but inputs made from the batch norms' statistics.
`+ BN re-estimated` means that running means and variances are measured again on those images after pruning;
`Torch-Pruning` is that library with its own criteria (Taylor and Hessian see labels). `learned` matches all
layers to the original's logits on 10 000 images without labels; `then labels` is two epochs of fine-tuning
on 30 000 labelled images, `scratch` the same from random weights. Test error is counted on 10 000 images.
What is random is repeated with three seeds; what is trained, and what others choose, is done once. `--quick`
shows 50 % and two methods on 1 000 test images.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from benchmarks import peers
from benchmarks.comparison import PEER, RE_ESTIMATED, USUAL, Lesson, classifier, measure, registered
from benchmarks.harness import Layout, by_size, options
from benchmarks.resnet20 import build
from benchmarks.train_lenet import tensors
from edgeprune.stages.allocate import allocate
from edgeprune.stages.finetune import Recipe
from edgeprune.widths.budget import Budget, Multiples

SHARES = (0.75, 0.5, 0.25)
SAMPLES = 500
SEEDS = range(3)
QUICK_TESTS = 1000
MATCH = Recipe(epochs=4, batch=128, rate=2e-3)
LABELS = Recipe("mixed", epochs=2, batch=128, rate=3e-3, frozen=False, average=0.99)
LESSONS = {
    "learned, 10 000 unlabelled": Lesson(MATCH, 10_000),
    "scratch, 10 000 unlabelled": Lesson(MATCH, 10_000, scratch=True),
    "gram, then labels": Lesson(LABELS, 30_000, labelled=True),
    "scratch, then labels": Lesson(LABELS, 30_000, labelled=True, scratch=True),
}
LAYOUT = by_size


def methods() -> tuple[str, ...]:
    """In the order of the table."""
    others = tuple(f"{PEER}{name}{RE_ESTIMATED}" for name in peers.CRITERIA)
    again = (f"sensitivity{RE_ESTIMATED}", f"magnitude{RE_ESTIMATED}", USUAL)
    return (*registered(), *again, f"{PEER}magnitude", *others, "gram, synthetic inputs", *LESSONS)


def images(chosen: argparse.Namespace, name: str, net: nn.Module, layout: Layout) -> None:
    """The comparison for a net that takes MNIST's digits as pictures."""
    (training, labels), (tests, truth) = tensors("train"), tensors("test")
    if chosen.quick:
        tests, truth = tests[:QUICK_TESTS], truth[:QUICK_TESTS]
        chosen.method = chosen.method or [USUAL, "gram"]
    square = (1, 28, 28)
    pool = (training.unflatten(1, square), labels)
    subject = classifier(name, net, pool, (tests.unflatten(1, square), truth), SAMPLES, LESSONS)
    sizes = {
        f"{100 * share:.0f} %": allocate(subject.coupling, Budget("keep", share), Multiples())
        for share in (SHARES[1:2] if chosen.quick else SHARES)
    }
    measure(chosen, subject, methods(), sizes, SEEDS, layout)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a line of the table; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine cost more than they bring
    images(chosen, "ResNet-20 on MNIST", build(), LAYOUT)


if __name__ == "__main__":
    main()
