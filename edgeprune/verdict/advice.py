"""What to do where a smaller net is slower, and what is to blame for it."""

from __future__ import annotations

from edgeprune.records.run import PlanRecord, Validation
from edgeprune.target import Target


def advice(target: Target, validation: Validation, plan: PlanRecord | None) -> tuple[str, ...]:
    """That the smaller net is slower, and what is to blame: widths off the grid, or nodes by their trace."""
    latency = validation.latency
    if latency is None or latency.ratio_low <= 1.0:
        return ()
    reasons = []
    multiple = target.conv_multiple()
    off = [g for g in (plan.groups if plan else ()) if g.after < g.before and g.after % multiple]
    if off:
        named = ", ".join(f"{g.name} ({g.after})" for g in off[:3])
        reasons.append(
            f"{len(off)} groups lie off the target's grid of {multiple} ({named}), where its kernels leave "
            "their fast layout"
        )
    worse = [o for o in validation.operations if (o.pruned_us or 0) > (o.original_us or 0) > 0]
    if worse:
        worse.sort(key=lambda o: (o.original_us or 0) - (o.pruned_us or 0))
        named = ", ".join(f"{o.name} ({o.original_us:.0f} → {o.pruned_us:.0f} µs)" for o in worse[:3])
        reasons.append(f"by its trace these nodes take longer: {named}")
    why = "; ".join(reasons) or "no node of its trace takes longer, so starting and copying outweigh the work"
    told = f"{target.name}: the pruned model is slower than the original ({latency.ratio:.2f}×): {why}. "
    return (told + "See --multiple, prune more, give --speedup, or leave the model dense.",)
