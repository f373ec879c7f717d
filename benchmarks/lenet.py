"""LeNet-300-100 on MNIST pruned by every method, without labels: test error and logit error.

    python -m benchmarks.lenet [--quick] [--json FILE] [--resume] [--method NAME]

The bundled net, widths 150-50, 60-30 and 30-30, 10 000 test images. Methods that need data see 4 000
unlabelled training images; `no data` and `mean and covariance` tell what else `gram` can do with. `learned`
then matches all layers to the original's logits, on those images or on all 60 000, never with a label;
`scratch` is the same training from random weights. `Torch-Pruning` is that library with its own criteria
(Taylor and Hessian see labels). What is random is repeated with five seeds, what is trained with three, with
`--quick` with one.
"""

from __future__ import annotations

import torch

from benchmarks import peers
from benchmarks.comparison import PEER, Lesson, classifier, measure, registered
from benchmarks.harness import by_size, options
from benchmarks.train_lenet import tensors
from edgeprune.demo.lenet import build
from edgeprune.stages.finetune import Recipe

SIZES = {"150-50": {"fc1": 150, "fc2": 50}, "60-30": {"fc1": 60, "fc2": 30}, "30-30": {"fc1": 30, "fc2": 30}}
SAMPLES = 4000
EVERY = 60_000
SEEDS = range(5)
FEW, MANY = Recipe.of_steps(2000, SAMPLES), Recipe.of_steps(4000, EVERY)
LESSONS = {
    "learned, 4 000 unlabelled": Lesson(FEW, seeds=3),
    "scratch, 4 000 unlabelled": Lesson(FEW, scratch=True, seeds=3),
    "learned, 60 000 unlabelled": Lesson(MANY, EVERY, seeds=3),
    "scratch, 60 000 unlabelled": Lesson(MANY, EVERY, scratch=True, seeds=3),
}
LAYOUT = by_size


def methods() -> tuple[str, ...]:
    """In the order of the table."""
    others = tuple(PEER + name for name in peers.CRITERIA if name != "BN scale")
    return (*registered(), *others, "gram, no data", "gram, mean and covariance", *LESSONS)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a line of the table; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine cost more than they bring
    subject = classifier(
        "LeNet-300-100 on MNIST", build(), tensors("train"), tensors("test"), SAMPLES, LESSONS
    )
    measure(chosen, subject, methods(), SIZES, SEEDS, LAYOUT)


if __name__ == "__main__":
    main()
