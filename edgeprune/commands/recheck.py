"""A run measured again, beside the record of the first time; the run itself is not touched."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeprune.config import Resolved
from edgeprune.inputs.models import Loaded
from edgeprune.pipeline import again
from edgeprune.progress import Progress, silent
from edgeprune.records.provenance import Finding
from edgeprune.records.run import Run

DRIFT = 0.05
"""Relative change of a drift between two machines that is no finding: float32 rounds differently."""


def recheck(
    loaded: Loaded, resolved: Resolved, folder: Path, stages: tuple[str, ...], progress: Progress = silent
) -> tuple[Finding, ...]:
    """Do stages again on a copy, and hold what comes out against the record.

    Args:
        stages: of `validate` and `certify`.

    Raises:
        EdgepruneError: see `edgeprune.pipeline.again`; a certificate that a measured error exceeds
            raises BoundViolated.
    """
    before = Run.load(folder)
    names = [f"validate-{name}" for name in resolved.settings.target] if "validate" in stages else []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        copy = Path(work) / "run"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".lock", "*.part"))
        now = again(loaded, resolved, copy, (*stages, *names), progress)
    found = [*_drifts(before, now)] if "validate" in stages else []
    return (*found, *(_certificates(before, now) if "certify" in stages else ()))


def _drifts(before: Run, now: Run) -> Iterator[Finding]:
    earlier = {v.target: v for v in before.validations}
    for validation in now.validations:
        name, old = f"drift on {validation.target}", earlier.get(validation.target)
        if validation.drift is None or old is None or old.drift is None:
            yield Finding(name, "unknown", validation.reason or "it was not measured both times")
            continue
        values = old.drift.linf_max, validation.drift.linf_max
        same = abs(values[1] - values[0]) <= DRIFT * max(values[0], 1e-12)
        words = f"at most {values[0]:.4g} in the record, {values[1]:.4g} now"
        yield Finding(name, "ok" if same else "wrong", words)


def _certificates(before: Run, now: Run) -> Iterator[Finding]:
    """A bound is confirmed where it comes out again, or a smaller one does."""
    made = {(c.name, c.scope, c.domain, c.layer, c.target): c.bound for c in now.certificates}
    for old in before.certificates:
        name = "/".join(filter(None, (old.name, old.layer, old.target)))
        again_ = made.get((old.name, old.scope, old.domain, old.layer, old.target))
        if old.bound is None or again_ is None:
            outcome: tuple[str, str] = (
                ("ok", "claims nothing") if old.bound is None else ("unknown", "not made again")
            )
        elif again_ <= old.bound * (1 + 1e-6):
            outcome = ("ok", f"{old.bound:.6g} in the record, {again_:.6g} now")
        else:
            outcome = ("wrong", f"{old.bound:.6g} in the record, but {again_:.6g} comes out now")
        yield Finding(f"certificate {name}", outcome[0], outcome[1])  # type: ignore[arg-type]
