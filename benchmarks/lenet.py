"""LeNet-300-100 on MNIST pruned by every coreset, without fine-tuning: test error and logit error.

    python -m benchmarks.lenet [--quick] [--json FILE] [--method NAME]

Every coreset that needs neither labels nor training, or those that are named. The bundled net, widths 150-50,
60-30 and 30-30, 10 000 test images. Methods that need data see 4 000 unlabelled training images. What is
random (the draw of the units, or of those images) is repeated with five seeds, with `--quick` with one.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.comparison import Subject, compare, original, registered
from benchmarks.harness import by_size, environment_rows, finish, options
from benchmarks.train_lenet import tensors
from edgeprune.demo.lenet import build

SIZES = {"150-50": {"fc1": 150, "fc2": 50}, "60-30": {"fc1": 60, "fc2": 30}, "30-30": {"fc1": 30, "fc2": 30}}
SAMPLES = 4000
SEEDS = range(5)
LAYOUT = by_size


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a coreset; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine cost more than they bring
    images, _ = tensors("train")
    subject = Subject.of("LeNet-300-100 on MNIST", build(), images, *tensors("test"))
    rows = [*environment_rows(), original(subject)]
    which, seeds = chosen.method or registered(), SEEDS[:1] if chosen.quick else SEEDS
    for row in compare(subject, which, SIZES, SAMPLES, seeds):
        rows.append(row)
        print(f"{row.method} {row.size} seed {row.seed}: {row.figure} {row.value:.3g}", file=sys.stderr)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
