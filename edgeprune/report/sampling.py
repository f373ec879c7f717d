"""Which samples a run used for what, and how they chose how much is pruned, in sentences."""

from __future__ import annotations

from edgeprune.records.run import Choice, Run, Split
from edgeprune.report import wording

USES = {"fit": "to fit", "select": "to choose how much is pruned", "certify": "to certify and measure"}


def sentences(run: Run) -> tuple[str, ...]:
    """What `splits` and `choice` of the record say; nothing where the run has none."""
    told = () if run.choice is None else (_chosen(run.choice),)
    return (*told, _used(run.splits)) if run.splits else told


def _used(splits: tuple[Split, ...]) -> str:
    """How many samples each use had; uses of the same samples are named together."""
    same: dict[str, list[Split]] = {}
    for split in splits:
        same.setdefault(split.content_sha256, []).append(split)
    parts = [
        f"{wording.count(some[0].n)} {wording.clean(' and '.join(USES.get(s.use, s.use) for s in some))}"
        f" ({wording.clean(some[0].source, 60)})"
        for some in same.values()
    ]
    apart = "; no sample is in two of these sets" if len(parts) > 1 else ""
    return f"Samples: {', '.join(parts)}{apart}."


def _chosen(choice: Choice) -> str:
    """Which share was taken, of how many, and what it had to keep to."""
    share = f"Kept: {wording.number(100 * choice.share)} % of the units"
    tried, n = len(choice.candidates), wording.count(choice.n)
    quantile, limit = wording.confidence(choice.quantile), wording.upper(choice.limit)
    sure = f"{wording.confidence(choice.confidence)} confidence, {n} samples"
    if not choice.good:
        return (
            f"{share}, the mildest of {tried} shares tried; for none it was shown that {quantile} of all "
            f"inputs err by at most {limit} ({sure})."
        )
    if choice.method == "learn-then-test":
        return (
            f"{share}, of {tried} shares tested from the mildest on; {quantile} of all inputs err by at most "
            f"{limit} ({sure}, learn then test)."
        )
    return (
        f"{share}, the smallest of {tried} shares whose bound on the error of {quantile} of all inputs is at "
        f"most {limit} ({n} samples chose, others certify)."
    )


__all__ = ["sentences"]
