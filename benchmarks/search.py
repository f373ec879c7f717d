"""What a search finds: the hypervolume of its front against random search and uniform ratios.

    python -m benchmarks.search [--quick] [--json FILE] [--subject NAME] [--measurements N] [--seeds N]
                                [--device counted|cpu]

Three ways to spend the same number of measurements: the search as it is by default; the same space at random;
and `gram` at evenly spaced uniform ratios of the channels. A net that comes up again costs none. Objectives
are the latency ratio and the largest output error; the reference point is (1, the largest output of the
original), and volumes are shares of the box between it and (0, 0).

The counted device (`search_roofline`) has no noise and needs no quiet machine, so every way is tried with
several seeds (uniform ratios have none). `--device cpu` exports every net and measures it on this machine's
CPU, one thread. The seconds are what each step took, of all ways together. Subjects whose weights are not
here are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import crepe
from benchmarks.harness import ENVIRONMENT, Row, environment_rows, load, options, save
from benchmarks.search_roofline import Nets, Roofline, seconds
from edgeprune.config import Settings
from edgeprune.errors import EdgepruneError
from edgeprune.inputs.models import Loaded, load_model
from edgeprune.profiles import find_calibration
from edgeprune.progress import silent
from edgeprune.search import begin
from edgeprune.search.conduct import Conductor
from edgeprune.search.front import hypervolume
from edgeprune.search.ground import Ground, Rules
from edgeprune.search.objectives import objectives
from edgeprune.search.store import Store
from edgeprune.search.study import Book, Desk
from edgeprune.search.work import Draft, File, Package
from edgeprune.search.workers import Local
from edgeprune.stages.allocate import allocate
from edgeprune.widths.budget import Budget, cost

NAME = "brief"
TARGET = """
name = "brief"
description = "this CPU, one thread, measured briefly"
[threads]
intra = 1
[measure]
launches_min = 3
launches_max = 3
pairs = 60
budget_s = 30
"""
WAYS = ("search", "random", "uniform")
NARROWEST = 0.05
"""Of the uniform ratios."""
MOST_TRIALS = 10
"""Times the measurements; repeated nets count as trials only."""


def lenet(folder: Path) -> tuple[Loaded, Settings]:
    """LeNet-300-100 on MNIST."""
    return load_model("edgeprune.demo.lenet:build"), Settings(
        model="edgeprune.demo.lenet:build", calibration="mnist", samples=512
    )


def resnet(folder: Path) -> tuple[Loaded, Settings]:
    """ResNet-20 on MNIST."""
    loaded = load_model("benchmarks.resnet20:build")
    spec = "benchmarks.resnet20:build"
    digits = find_calibration("mnist").load()
    path = folder / "digits.npz"
    images = np.concatenate([digits.fit[0][:96], digits.holdout[0][:64]]).reshape(-1, 1, 28, 28)
    np.savez(path, x=images)
    return loaded, Settings(model=spec, calibration=str(path), samples=96, multiple=4)


def pitch(folder: Path) -> tuple[Loaded, Settings]:
    """CREPE tiny on synthetic tones."""
    spec = "benchmarks.crepe:tiny"
    loaded = load_model(spec)
    path = folder / "tones.npz"
    np.savez(path, x=torch.as_tensor(crepe.tones(96, 0)).numpy().astype(np.float32))
    return loaded, Settings(model=spec, calibration=str(path), samples=64, multiple=8)


SUBJECTS: dict[str, Callable[[Path], tuple[Loaded, Settings]]] = {
    "LeNet-300-100": lenet,
    "ResNet-20": resnet,
    "CREPE tiny": pitch,
}


@dataclass(slots=True)
class Measured(Conductor):
    """The same conduct, ended by a number of measurements."""

    most: int = 0

    def _room(self) -> bool:
        spent = sum(self.measurements.values()) + len(self.running)
        return spent < self.most and Conductor._room(self)


@dataclass(slots=True)
class Uniform(Measured):
    """Widths that are the same share of every group."""

    def draft(self, params: Mapping[str, Any]) -> Draft:
        """Widths by a share of the channels."""
        coupling, whole = self.ground.bench.coupling, self.ground.whole
        widths = same_share(self.ground, float(params["share"]))
        left = cost(coupling, {name: np.arange(width) for name, width in widths})
        known = {
            "macs": left.macs / whole.macs,
            "macs_count": float(left.macs),
            "params": left.params / whole.params,
            "params_count": float(left.params),
            "original_bytes": float(self.ground.original[1]),
        }
        return Draft("gram", "bottom-up", widths, tuple(known.items()), (), self.ground.names)


def same_share(found: Ground, share: float) -> tuple[tuple[str, int], ...]:
    """The widths that are a share of every group's."""
    return tuple(sorted(allocate(found.bench.coupling, Budget("keep", share), found.multiples).items()))


def ladder(found: Ground, count: int) -> list[float]:
    """So many shares, evenly among all that give different nets."""
    different: dict[tuple[tuple[str, int], ...], float] = {}
    for share in np.linspace(0.99, NARROWEST, 400):
        different.setdefault(same_share(found, float(share)), float(share))
    shares = list(different.values())
    return [shares[k] for k in np.unique(np.linspace(0, len(shares) - 1, count).round().astype(int))]


@dataclass(slots=True)
class Stage:
    """A subject that is opened.

    Attributes:
        nets: what is known of the nets that were made for the counted device.
        spent: seconds by step.
    """

    found: Ground
    store: Path
    package: Package
    scale: float
    nets: Nets = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)


def opened(name: str, folder: Path) -> Stage:
    """A subject, with all that its trials share."""
    started = time.monotonic()
    target = folder / f"{NAME}.toml"
    target.write_text(TARGET, encoding="utf-8")
    loaded, settings = SUBJECTS[name](folder)
    settings = dataclasses.replace(settings, target=(str(target),), certify=False, simplify=False)
    store = folder / "store"
    found, original, samples = begin.ground(loaded, settings, _rules(1), Store(store), silent)
    package = Package(File(str(original.path(begin.ORIGINAL))), File(str(samples.path(begin.SAMPLES))))
    scale = max(float(np.abs(y).max()) for y in found.bench.reference)
    return Stage(found, store, package, scale, spent={"opening": time.monotonic() - started})


def _rules(measurements: int) -> Rules:
    return Rules(objectives(("latency,error",), "observed", (NAME,)), (), MOST_TRIALS * measurements)


def spent(way: str, stage: Stage, measurements: int, seed: int, device: str) -> Conductor:
    """One way, with that many measurements."""
    found, told = stage.found, _rules(measurements)
    space = begin.space(found, found.settings, begin.Wishes(), False)
    first = space.first(measurements) if way == "search" else []
    if way == "uniform":
        first = [{**space.first()[0], "share": share} for share in ladder(found, measurements)]
        told = dataclasses.replace(told, trials=len(first))
    with tempfile.TemporaryDirectory(prefix="edgeprune-search-") as name:
        folder = Path(name)
        shutil.copytree(stage.store, folder / "store")  # nothing is known from another way
        book = Book.open(folder / "journal", "edgeprune", [o.key for o in told.minimized], space, way)
        desk = Desk(space, len(told.minimized), "tpe" if way == "search" else "random", seed, first)
        whole = seconds(found.whole.macs, found.whole.params)
        crew = Roofline(found.bench, NAME, whole, stage.nets) if device == "counted" else Local(1, {NAME: 1})
        store = Store(folder / "store")
        found = dataclasses.replace(
            found, subject=dataclasses.replace(found.subject, store=str(store.root.resolve()))
        )
        crew.begin(found.subject, stage.package)
        kind = Uniform if way == "uniform" else Measured
        conductor = kind(found, told, space, desk, book, store, crew, lambda _: None, {}, most=measurements)
        try:
            conductor.run()
        finally:
            crew.close()
            book.close()
    return conductor


def measured(name: str, asked: argparse.Namespace) -> list[Row]:
    """The figures of a subject."""
    rows, counted = list[Row](), asked.device == "counted"
    with tempfile.TemporaryDirectory(prefix="edgeprune-search-") as temporary:
        stage = opened(name, Path(temporary))
        for way in WAYS:
            for seed in range(asked.seeds if counted and way != "uniform" else 1):
                started = time.monotonic()
                done = spent(way, stage, asked.measurements, seed, asked.device)
                took, points = time.monotonic() - started, [t.values for t in done.desk.latest if t.values]
                volume = hypervolume(points, (1.0, stage.scale)) / stage.scale
                count = sum(done.measurements.values())
                rows.append(Row(name, way, asked.device, "hypervolume", round(volume, 4), "", seed))
                rows.append(Row(name, way, asked.device, "measurements", count, "", seed))
                told = f"hypervolume {volume:.4f}, {count} measurements, {took:.0f} s"
                print(f"{name}, {way}, seed {seed}: {told}", flush=True)
                for step, took in done.seconds.items():
                    stage.spent[step] = stage.spent.get(step, 0.0) + took
        for step, took in stage.spent.items():
            rows.append(Row(name, "time", asked.device, step, round(took, 2), "s", 0))
    print(f"{name}: " + ", ".join(f"{step} {took:.1f} s" for step, took in stage.spent.items()), flush=True)
    return rows


def main() -> None:
    """Measure, print, and keep."""
    parser = options(__doc__)
    parser.add_argument("--subject", choices=sorted(SUBJECTS), help="only this one")
    parser.add_argument("--device", choices=("counted", "cpu"), default="counted", help="[default: counted]")
    parser.add_argument("--measurements", type=int, default=24, metavar="N", help="of each way [default: 24]")
    parser.set_defaults(seeds=3)
    asked = parser.parse_args()
    if asked.quick:
        asked.measurements, asked.seeds, asked.subject = 8, 1, asked.subject or "LeNet-300-100"
    names = [asked.subject] if asked.subject else list(SUBJECTS)
    kept = load(asked.json) if asked.resume and asked.json and asked.json.is_file() else []
    others = [
        r for r in kept if r.subject != ENVIRONMENT and (r.subject not in names or r.size != asked.device)
    ]
    rows = [*environment_rows(), *others]
    for name in names:
        try:
            rows += measured(name, asked)
        except (EdgepruneError, ImportError) as error:
            print(f"{name}: left out ({error})", flush=True)
        if asked.json:
            save(asked.json, rows)


if __name__ == "__main__":
    main()
