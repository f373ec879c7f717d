"""What a search finds: the hypervolume of its front against random search and uniform ratios.

    python -m benchmarks.search [--quick] [--json FILE] [--subject NAME] [--measurements N]

Three ways to spend the same number of trials on this machine's CPU, one thread: Optuna's TPE over the space
of a search; the same space at random; and `gram` at evenly spaced uniform ratios of the channels. Objectives
are the latency ratio and the largest output error; the reference point is (1, the largest error of any net of
the subject), and volumes are shares of the box between it and (0, 0). A net that comes up again costs no
measurement, so the number of measurements stands beside each volume. The seconds are what each step took, of
all three ways together. Subjects whose weights are not here are left out.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import crepe
from benchmarks.harness import Row, environment_rows, options, save
from edgeprune.budget import Budget
from edgeprune.config import Settings
from edgeprune.errors import EdgepruneError
from edgeprune.models import Loaded, from_module, load_model
from edgeprune.profiles import find_calibration
from edgeprune.progress import silent
from edgeprune.search import begin
from edgeprune.search.conduct import Conductor
from edgeprune.search.front import hypervolume
from edgeprune.search.ground import Ground, Rules
from edgeprune.search.objectives import objectives
from edgeprune.search.store import Store
from edgeprune.search.study import Book, Desk
from edgeprune.search.work import File, Package
from edgeprune.search.workers import Local
from edgeprune.stages.allocate import allocate

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


def lenet(folder: Path) -> tuple[Loaded, Settings]:
    """LeNet-300-100 on MNIST."""
    return load_model("edgeprune.demo.lenet:build"), Settings(
        model="edgeprune.demo.lenet:build", calibration="mnist", samples=1024
    )


def resnet(folder: Path) -> tuple[Loaded, Settings]:
    """ResNet-20 on MNIST."""
    loaded = load_model("benchmarks.resnet20:build")
    spec = "benchmarks.resnet20:build"
    digits = find_calibration("mnist").load()
    path = folder / "digits.npz"
    images = np.concatenate([digits.fit[0][:512], digits.holdout[0][:256]]).reshape(-1, 1, 28, 28)
    np.savez(path, x=images)
    return loaded, Settings(model=spec, calibration=str(path), samples=512, multiple=4)


def pitch(folder: Path) -> tuple[Loaded, Settings]:
    """CREPE full on synthetic tones."""
    loaded = from_module(crepe.build(), "benchmarks.crepe:build")
    path = folder / "tones.npz"
    np.savez(path, x=torch.as_tensor(crepe.tones(192, 0)).numpy().astype(np.float32))
    return loaded, Settings(model="benchmarks.crepe:build", calibration=str(path), samples=128)


SUBJECTS: dict[str, Callable[[Path], tuple[Loaded, Settings]]] = {
    "LeNet-300-100": lenet,
    "ResNet-20": resnet,
    "CREPE": pitch,
}


class Uniform(Conductor):
    """The same conduct, with widths that are the same share of every group."""

    def draft(self, params):  # type: ignore[no-untyped-def]
        """Widths by a share of the channels."""
        plain = super().draft(params)
        widths = allocate(
            self.ground.bench.coupling, Budget("keep", float(params["share"])), self.ground.multiples
        )
        return dataclasses.replace(plain, widths=tuple(sorted(widths.items())), method="gram")


def spent(
    way: str, found: Ground, told: Rules, store: Store, package: Package, folder: Path, seed: int
) -> Conductor:
    """One way, with that many measurements."""
    settings = found.settings
    wishes = begin.Wishes(methods=() if way != "uniform" else ("gram",))
    space = begin.space(found, settings, wishes, False)
    keys = [objective.key for objective in told.minimized]
    book = Book.open(folder / f"{way}.journal", "edgeprune", keys, space, way)
    first = space.first() if way == "search" else []
    if way == "uniform":
        shares = np.linspace(1, 0.05, told.trials + 1)[1:]
        first = [{**space.first()[0], "share": float(share)} for share in shares]
    desk = Desk(space, len(keys), "tpe" if way == "search" else "random", seed, first)
    crew = Local(1, {"brief": 1})
    crew.begin(found.subject, package)
    kind = Uniform if way == "uniform" else Conductor
    conductor = kind(found, told, space, desk, book, store, crew, lambda _: None, {})
    try:
        conductor.run()
    finally:
        crew.close()
        book.close()
    return conductor


def measured(name: str, measurements: int, seed: int) -> list[Row]:
    """The figures of a subject."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-search-") as temporary:
        folder = Path(temporary)
        target = folder / "brief.toml"
        target.write_text(TARGET, encoding="utf-8")
        loaded, settings = SUBJECTS[name](folder)
        settings = dataclasses.replace(settings, target=(str(target),), certify=False, seed=seed)
        told = Rules(objectives(("latency,error",), "observed", ("brief",)), (), measurements)
        seconds: dict[str, float] = {}
        fronts, worst, counts = {}, 0.0, {}
        for way in WAYS:
            store = Store(folder / way)  # nothing is known from another way
            found, original, samples = begin.ground(loaded, settings, told, store, silent)
            package = Package(
                File(str(original.path(begin.ORIGINAL))), File(str(samples.path(begin.SAMPLES)))
            )
            done = spent(way, found, told, store, package, folder, seed)
            points = [t.values for t in done.desk.latest if t.values]
            fronts[way], counts[way] = points, sum(done.measurements.values())
            worst = max([worst, *(p[1] for p in points)])
            for step, took in done.seconds.items():
                seconds[step] = seconds.get(step, 0.0) + took
    rows = []
    for way, points in fronts.items():
        volume = hypervolume(points, (1.0, worst)) / worst
        rows.append(Row(name, way, "", "hypervolume", round(volume, 4), "", seed))
        rows.append(Row(name, way, "", "measurements", counts[way], "", seed))
        print(f"{name}, {way}: hypervolume {volume:.4f}, {counts[way]} measurements", flush=True)
    for step, took in seconds.items():
        rows.append(Row(name, "time", "", step, round(took, 2), "s", seed))
        print(f"{name}: {step} {took:.1f} s", flush=True)
    return rows


def main() -> None:
    """Measure, print, and keep."""
    parser = options(__doc__)
    parser.add_argument("--subject", choices=sorted(SUBJECTS), help="only this one")
    parser.add_argument("--measurements", type=int, default=24, metavar="N", help="of each way [default: 24]")
    asked = parser.parse_args()
    names = [asked.subject] if asked.subject else ["LeNet-300-100"] if asked.quick else list(SUBJECTS)
    rows = environment_rows()
    for name in names:
        try:
            rows += measured(name, 4 if asked.quick else asked.measurements, 0)
        except (EdgepruneError, ImportError) as error:
            print(f"{name}: left out ({error})", flush=True)
        if asked.json:
            save(asked.json, rows)


if __name__ == "__main__":
    main()
