"""How much is pruned, chosen among several shares so that the choice does not spoil the certificate.

fresh-split: half of the held-out samples choose, the other half certifies; all certificates are as if the
share had been given. learn-then-test: all samples choose and certify; candidates are tested from the mildest
on and the first failure ends it (fixed sequence testing), and the other statistical statements, which were
not part of that test, are each made at δ ÷ candidates, so that they hold for every candidate at once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeprune.bounds import statistical
from edgeprune.certificates.distribution import linf_errors
from edgeprune.config import Settings
from edgeprune.errors import UsageError
from edgeprune.inputs.preparation import Line
from edgeprune.inputs.samples import Array
from edgeprune.plan import Shrunk
from edgeprune.progress import Progress
from edgeprune.records.run import Candidate, Choice
from edgeprune.stages.parity import torch_outputs

logger = logging.getLogger(__name__)

Made = tuple[Shrunk, object]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The share that was chosen, and the settings that say so."""

    settings: Settings
    choice: Choice


def chosen(line: Line, batch: int, make: Callable[[Settings], Shrunk], progress: Progress) -> Chosen:
    """Try every share, and take the smallest that is good enough on the samples that choose.

    Good enough: at confidence 1 − δ, at least the quantile's share of all inputs has an error (linf, torch in
    float64) within the limit `statistical_error`. Where none is, the mildest is taken; the gate will say so.

    Args:
        batch: how many inputs are run at once.
        make: prunes with other settings.

    Raises:
        UsageError: there is no limit to choose by.
    """
    settings = line.settings
    limit = settings.limits.statistical_error
    if limit is None:
        raise UsageError(
            "--ratios chooses by --limit statistical_error=…, and there is none; say how large an error the "
            f"{settings.quantile:g} quantile may have."
        )
    shares, delta = sorted(settings.ratios, reverse=True), 1 - settings.confidence
    reference = torch_outputs(line.loaded.module, line.select, batch)
    errors: list[Array] = []
    for share in progress(shares, "trying shares to keep", len(shares)):
        shrunk = make(with_share(settings, share))
        errors.append(linf_errors(reference, torch_outputs(shrunk.module, line.select, batch)))
    found = [statistical.quantile(e, settings.quantile, delta).bound for e in errors]
    if settings.selection == "learn-then-test":
        removed = [1 - share for share in shares]
        best, _ = statistical.chosen_ratio(np.array(errors), removed, limit, settings.quantile, delta)
    else:
        good = [k for k, bound in enumerate(found) if bound is not None and bound <= limit]
        best = good[-1] if good else None
    taken = shares[best if best is not None else 0]
    candidates = tuple(
        Candidate(share, bound, float(e.max())) for share, bound, e in zip(shares, found, errors, strict=True)
    )
    logger.info("of %s the share %g is taken", shares, taken)
    choice = Choice(
        settings.selection, limit, settings.quantile, settings.confidence, len(errors[0]), candidates, taken,
        best is not None,
    )  # fmt: skip
    return Chosen(with_share(settings, taken), choice)


def with_share(settings: Settings, share: float) -> Settings:
    """The same settings for one share of each group's units."""
    return dataclasses.replace(settings, keep=share, ratios=())


__all__ = ["Chosen", "chosen", "with_share"]
