"""What disturbed a measurement, as far as the machine tells: heat, throttling, stolen time, load."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.runtimes.jobs import Answer

WARMER_CELSIUS = 10.0
STOLEN = 0.02
"""Share of the CPU's time that a hypervisor may give to others before it is told."""


def disturbances(answers: Sequence[Answer]) -> tuple[str, ...]:
    """Notes about launches that were made one after the other."""
    notes = []
    both = [a.state for a in answers]
    throttled = sum(_rise(before, after, "throttled") for before, after in both)
    if throttled:
        notes.append(
            f"the device was slowed for heat {throttled:.0f} times meanwhile: cool it, or measure less"
        )
    heat = [state["celsius"] for pair in both for state in pair if "celsius" in state]
    if heat and max(heat) - heat[0] >= WARMER_CELSIUS:
        notes.append(f"the device warmed up from {heat[0]:.0f} to {max(heat):.0f} °C meanwhile")
    ticks = sum(_rise(before, after, "ticks") for before, after in both)
    stolen = sum(_rise(before, after, "stolen") for before, after in both)
    if ticks and stolen / ticks > STOLEN:
        notes.append(f"{stolen / ticks:.0%} of this virtual machine's time went to others meanwhile")
    if answers:
        first, cores = both[0][0].get("load", 0.0), answers[0].environment.get("cores")
        if isinstance(cores, int) and first > cores:
            notes.append(f"the device was busy when it began (load {first:.1f} on {cores} cores)")
    return tuple(notes)


def _rise(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return max(after.get(name, 0.0) - before[name], 0.0) if name in before else 0.0
