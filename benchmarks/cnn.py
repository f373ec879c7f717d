"""A ResNet-20 on MNIST pruned by every coreset, without fine-tuning: test error and logit error.

    python -m benchmarks.cnn [--quick] [--json FILE] [--method NAME]

Every coreset that needs neither labels nor training, or those that are named. Every group of channels, the
residual streams included, keeps 75, 50 or 25 %. Methods that need data see 500 unlabelled training images.
`+ BN re-estimated` means that the batch norms' running means and variances are measured again on those
images after pruning; `summed magnitude` is what pruning libraries do. Test error is counted on 10 000 images.
What is random (the draw of the channels, or of the images) is repeated with three seeds. `--quick` shows
50 % and two methods on 1 000 test images.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.comparison import RE_ESTIMATED, USUAL, Subject, compare, original, registered
from benchmarks.harness import by_size, environment_rows, finish, options
from benchmarks.resnet20 import build
from benchmarks.train_lenet import tensors
from edgeprune.budget import Budget, Multiples
from edgeprune.stages.allocate import allocate

SHARES = (0.75, 0.5, 0.25)
SAMPLES = 500
SEEDS = range(3)
QUICK_TESTS = 1000
AGAIN = (f"sensitivity{RE_ESTIMATED}", f"magnitude{RE_ESTIMATED}", USUAL)
LAYOUT = by_size


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a coreset; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine cost more than they bring
    images, _ = tensors("train")
    tests, labels = tensors("test")
    if chosen.quick:
        tests, labels = tests[:QUICK_TESTS], labels[:QUICK_TESTS]
    square = (1, 28, 28)
    net = build()
    subject = Subject.of(
        "ResNet-20 on MNIST", net, images.unflatten(1, square), tests.unflatten(1, square), labels
    )
    shares = SHARES[1:2] if chosen.quick else SHARES
    sizes = {
        f"{100 * share:.0f} %": allocate(subject.coupling, Budget("keep", share), Multiples())
        for share in shares
    }
    which = chosen.method or ((USUAL, "gram") if chosen.quick else (*registered(), *AGAIN))
    rows = [*environment_rows(), original(subject)]
    for row in compare(subject, which, sizes, SAMPLES, SEEDS[:1] if chosen.quick else SEEDS):
        rows.append(row)
        print(f"{row.method} {row.size} seed {row.seed}: {row.figure} {row.value:.3g}", file=sys.stderr)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
