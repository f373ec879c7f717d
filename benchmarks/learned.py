"""LeNet-300-100 on MNIST: pruned without data, from moments, from samples, learned, and fine-tuned.

    python -m benchmarks.learned [--quick] [--json FILE]

The bundled net, widths 150-50, 60-30 and 30-30. `gram` with second moments from nothing but the weights, from
mean and covariance of 4 000 images, and from these images; `learned` matches all layers to the original's
logits on 4 000 or on all 60 000 images, no labels; `scratch` is the same training from random weights. The
last lines keep 10 % of the parameters (32-35) and train on, with labels. Nothing is selected on test images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import torch

from benchmarks.comparison import Subject, logits_of, original
from benchmarks.harness import Row, by_size, environment_rows, finish, options
from benchmarks.lenet import SIZES
from benchmarks.train_lenet import tensors
from edgeprune.demo.lenet import build
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.finetune import Queries, Recipe, from_scratch, tune
from edgeprune.stages.shrink import shrink

SAMPLES = 4000
ASIDE = 5000
TENTH = {"fc1": 32, "fc2": 35}
SOURCES = {"no data": "none", "mean and covariance": "moments", "samples": "samples"}
LEARN = Recipe(epochs=20)
LEARN_FEW = Recipe(epochs=125)
FINETUNE = Recipe("mixed", epochs=40, batch=128, rate=2e-3, decay=1e-4)
SEEDS = range(5)
LAYOUT = by_size


def pruned(
    subject: Subject, widths: Mapping[str, int], source: str, data: torch.Tensor, seed: int = 0
) -> torch.nn.Module:
    plan = choose(subject.coupling, widths, "gram", (data,), seed=seed, manner=Manner(source))
    return shrink(subject.net, subject.coupling, plan, (data[:4],)).module


def told(subject: Subject, net: torch.nn.Module, method: str, size: str, seed: int = 0) -> Iterator[Row]:
    found = logits_of(net, subject.tests)
    wrong = 100.0 * int((found.argmax(1) != subject.labels).sum()) / len(subject.labels)
    away = ((found - subject.logits).norm(dim=1) / subject.logits.norm(dim=1)).mean()
    print(f"{method} {size} seed {seed}: {wrong:.2f} % {float(away):.3f}", file=sys.stderr, flush=True)
    yield Row(subject.name, method, size, "test error", wrong, "%", seed)
    yield Row(subject.name, method, size, "relative logit error", float(away), "", seed)
    yield Row(subject.name, method, size, "choosing", 0.0, "s", seed)


def matched(subject: Subject, size: str, widths: Mapping[str, int], images: torch.Tensor) -> Iterator[Row]:
    for count, recipe in ((SAMPLES, LEARN_FEW), (len(images), LEARN)):
        queries = Queries.of(subject.net, (images[:count],), None)
        net = pruned(subject, widths, "samples", images[:SAMPLES])
        tune(net, queries, recipe, seed=0)
        yield from told(subject, net, f"learned, {count} unlabelled", size)
        control = from_scratch(net, 1)
        tune(control, queries, recipe, seed=0)
        yield from told(subject, control, f"scratch, {count} unlabelled", size)


def finetuned(subject: Subject, images: torch.Tensor, labels: torch.Tensor, seeds: range) -> Iterator[Row]:
    for seed in seeds:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        every = Queries.of(subject.net, (images,), labels)
        train, aside = every.part(order[ASIDE:]), every.part(order[:ASIDE])
        net = pruned(subject, TENTH, "samples", images[order[:SAMPLES]], seed)
        control = from_scratch(net, seed + 100)
        tune(net, train, FINETUNE, aside, seed=seed)
        yield from told(subject, net, "gram + fine-tuning", "10 % of parameters", seed)
        tune(control, train, FINETUNE, aside, seed=seed)
        yield from told(subject, control, "scratch + fine-tuning", "10 % of parameters", seed)


def main() -> None:
    chosen = options(__doc__).parse_args()
    torch.set_num_threads(1)
    images, targets = tensors("train")
    subject = Subject.of("LeNet-300-100 on MNIST", build(), images, *tensors("test"))
    rows = [*environment_rows(), original(subject)]
    for size, widths in SIZES.items():
        for words, source in SOURCES.items():
            net = pruned(subject, widths, source, images[:SAMPLES])
            rows += told(subject, net, f"gram, {words}", size)
        if not chosen.quick:
            rows += matched(subject, size, widths, images)
    if not chosen.quick:
        rows += finetuned(subject, images, targets, SEEDS)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
