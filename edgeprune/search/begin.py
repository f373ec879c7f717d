"""From what the user asks for to a search that can run: all is found and checked before anything is done."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.config import BUDGETS, Resolved, Settings
from edgeprune.coresets import CORESETS
from edgeprune.errors import CalibrationError, StorageError, UsageError
from edgeprune.graph.families import families
from edgeprune.inputs.models import Loaded
from edgeprune.line.planning import multiples_of
from edgeprune.profiles import find_target
from edgeprune.progress import Progress
from edgeprune.records import environment
from edgeprune.records.folder import key_of
from edgeprune.records.run import to_json
from edgeprune.search.bench import Bench
from edgeprune.search.objectives import Pick, conditions, objectives, pick
from edgeprune.search.space import LEAST_SHARE, Space
from edgeprune.search.store import Entry, Store, key
from edgeprune.stages.distribute import Curve, grid
from edgeprune.verdict.limits import Limits
from edgeprune.widths.budget import cost
from edgeprune.widths.pricing import Prices

if TYPE_CHECKING:
    from edgeprune.search.ground import Ground, Rules

METHODS = ("gram", "gram-forward")
"""What is tried where no method is named."""
ORIGINAL = "original.onnx"
SAMPLES = "samples.npz"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks of a search, as text and numbers.

    Attributes:
        error: what the word error means: certified, statistical or observed.
        seconds: after which no trial is begun; None for no limit.
        sampler: one of `study.SAMPLERS`.
        storage: URL of a database or a storage proxy; '' for a journal file in the folder.
        cluster: address of a Dask scheduler; '' for this machine.
        workers: processes that make nets here; 0 for this very process.
        units: `TARGET=COUNT`: how many equal devices of a target there are here.
        shard: (index from 1, count) of a search that is split.
    """

    minimize: tuple[str, ...] = ("latency,error",)
    constraints: tuple[str, ...] = ()
    pick: str = ""
    error: str = "observed"
    trials: int = 100
    seconds: float | None = None
    methods: tuple[str, ...] = ()
    sampler: str = "tpe"
    storage: str = ""
    study: str = "edgeprune"
    cluster: str = ""
    workers: int = 1
    units: tuple[str, ...] = ()
    cool_down_s: float = 0.0
    retries: int = 2
    shard: tuple[int, int] = (1, 1)


def demand() -> None:
    """See that what searches need is installed.

    Raises:
        UsageError: it is not.
    """
    missing = [name for name in ("optuna", "distributed") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"search needs {' and '.join(missing)}, which is not installed; run: pip install "
            "'edgeprune[search]'."
        )


def shard_of(text: str) -> tuple[int, int]:
    """`i/n` as numbers.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text}: give i/n, the i-th of n parts, such as 2/4.")
    return index, count


def units_of(texts: Sequence[str], targets: Sequence[str]) -> dict[str, int]:
    """How many devices of each target there are here.

    Raises:
        UsageError: it is not TARGET=COUNT.
    """
    found = dict.fromkeys(targets, 1)
    for text in texts:
        name, _, number = text.partition("=")
        if name not in found or not number.isdigit() or int(number) < 1:
            raise UsageError(f"--units {text}: give TARGET=COUNT for one of {', '.join(targets)}.")
        found[name] = int(number)
    return found


def settled(resolved: Resolved, given: Sequence[str]) -> Resolved:
    """The settings that all trials share.

    Args:
        given: names of the settings that came from flags.

    Raises:
        UsageError: one of them is what the search varies.
    """
    varied = (*BUDGETS, "ratios", "allocation", "emphasis", "price_mix", "direction")
    if clash := [name for name in varied if name in given]:
        flag = clash[0].replace("_", "-")
        raise UsageError(f"--{flag}: is what a search varies; leave it out, or use `edgeprune run` with it.")
    plain = dataclasses.replace(
        resolved.settings,
        keep=None,
        params=None,
        macs=None,
        bytes=None,
        speedup=None,
        latency_ms=None,
        ratios=(),
        price_mix=None,
        emphasis=(),
        allocation="uniform",
        direction="bottom-up",
    )
    return Resolved(plain, resolved.origins)


def rules(wishes: Wishes, targets: Sequence[str]) -> tuple[Rules, Pick | None]:
    """What is to be made small and kept to; before the model is looked at.

    Raises:
        UsageError: a quantity, a constraint, the pick or a number is wrong.
    """
    from edgeprune.search.ground import Rules

    if wishes.seconds is not None and wishes.seconds <= 0:
        raise UsageError("--time: must be more than nothing.")
    if wishes.trials < 1 or wishes.workers < 0 or wishes.retries < 0 or wishes.cool_down_s < 0:
        raise UsageError("--trials must be at least 1, and --workers, --retries and --cool-down at least 0.")
    minimized = objectives(wishes.minimize, wishes.error, targets)
    kept = conditions(wishes.constraints, wishes.error, targets)
    chosen = pick(wishes.pick, wishes.error, targets, minimized) if wishes.pick else None
    index, count = wishes.shard
    trials = wishes.trials // count + (index <= wishes.trials % count)
    told = Rules(
        minimized, kept, trials, wishes.seconds, wishes.retries, wishes.cool_down_s, bool(wishes.cluster)
    )
    return told, chosen


def ground(
    loaded: Loaded, settings: Settings, told: Rules, store: Store, progress: Progress
) -> tuple[Ground, Entry, Entry]:
    """Open the model, and find out what every trial needs; the entries hold the original and the samples.

    Raises:
        EdgepruneError: the model, the samples or a target cannot be used.
    """
    from edgeprune.search.ground import Ground
    from edgeprune.search.work import Subject

    targets = tuple(find_target(name) for name in settings.target)
    alone = dataclasses.replace(settings, target=(), limits=Limits(), finetune=0)
    bench = Bench.of(alone, loaded, progress)
    multiples = multiples_of(settings, targets)
    certified = any(o.name == "certified_error" for o in told.minimized) or any(
        c.name == "certified_error" for c in told.conditions
    )
    if certified and bench.line.domains is None:
        raise UsageError("a certified error needs a domain; give --domain, or a calibration set with one.")
    digest = key_of({"bench": bench.digest(), "multiples": [multiples.conv, multiples.units]})
    original = _kept(store, key("original", subject=digest), ORIGINAL, lambda work: _original(bench, work))
    samples = _kept(store, key("samples", subject=digest), SAMPLES, lambda _: bench.samples())
    fixed = key_of(
        {
            "original": original.files[ORIGINAL],
            "samples": samples.files[SAMPLES],
            "targets": to_json(targets),
            "settings": [settings.seed, settings.latency, settings.confidence, settings.quantile],
            "certified": certified,
            "versions": to_json(environment.describe(settings.seed)),
        }
    )
    subject = Subject(
        json.dumps(to_json(alone)),
        loaded.weights_sha256,
        environment.installed("edgeprune"),
        "" if told.carried else str(store.root.resolve()),
        digest,
        certified,
    )
    size = original.path(ORIGINAL).stat().st_size
    found = Ground(
        bench,
        settings,
        targets,
        _curves(bench, store, digest, progress),
        Prices.of(bench.coupling),
        cost(bench.coupling, {}),
        multiples,
        (original.files[ORIGINAL], size),
        fixed,
        subject,
    )
    return found, original, samples


def _original(bench: Bench, work: Path) -> Path:
    path = bench.exported(bench.line.loaded.module, "original", work)
    if path.with_name(path.name + ".data").exists():
        raise StorageError(
            f"{bench.line.loaded.name}: is too large for one ONNX file (1.5 GB), which a search needs to "
            "hand models to "
            "devices; use `edgeprune run`."
        )
    return path


def _kept(store: Store, name: str, file: str, made: object) -> Entry:
    if (known := store.get(name, [file])) is not None:
        return known
    assert callable(made)
    with tempfile.TemporaryDirectory(prefix="edgeprune-search-") as work:
        return store.put(name, {}, {file: made(Path(work))})


def _curves(bench: Bench, store: Store, digest: str, progress: Progress) -> dict[str, Curve]:
    """The error curves, computed once."""
    name, file = key("curves", subject=digest), "curves.npz"
    order = [group.name for group in bench.coupling.groups]
    if (known := store.get(name, [file])) is not None:
        with np.load(known.path(file), allow_pickle=False) as arrays:
            return {
                n: Curve(n, arrays[f"{k:04d}"]) for k, n in enumerate(order) if f"{k:04d}" in arrays.files
            }
    found = bench.curves(progress)
    stream = io.BytesIO()
    np.savez(stream, **{f"{k:04d}": found[n].error for k, n in enumerate(order) if n in found})  # type: ignore[arg-type]
    store.put(name, {}, {file: stream.getvalue()})
    return found


def space(found: Ground, settings: Settings, wishes: Wishes, method_given: bool) -> Space:
    """What is varied for this net.

    Raises:
        UsageError: a method does not exist, or trains.
        CalibrationError: a method needs data and there is none.
    """
    named = tuple(dict.fromkeys(m.strip() for text in wishes.methods for m in text.split(",") if m.strip()))
    methods = named or ((settings.method,) if method_given else METHODS)
    weighed = bool(found.curves)
    for method in methods:
        coreset = CORESETS[method]
        if coreset.matches:
            raise UsageError(
                f"--methods {method}: trains for minutes; search with another and train the chosen point."
            )
        if coreset.data and not weighed:
            raise CalibrationError(
                f"{method} needs a calibration set; give one with --calibration, let it do without "
                "(--moments synthetic "
                "for a net with batch norms, --moments none for any), or --methods sensitivity."
            )
    free = tuple(m for m in methods if not CORESETS[m].data)
    groups = found.bench.coupling.groups
    least = {g.name: int(grid(g, found.multiples.multiple(g))[0]) for g in groups}
    floor = max(found.prices.macs(least), found.prices.params(least))
    if floor >= 1.0:
        raise UsageError(
            "the targets' channel grid leaves no group anything to lose, so there is nothing to search; "
            "give a smaller "
            "--multiple."
        )
    return Space(
        families(found.bench.coupling), methods, free, weighed, max(LEAST_SHARE, min(0.99, 1.01 * floor))
    )
