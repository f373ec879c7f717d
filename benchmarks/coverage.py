"""How often a statistical certificate is wrong: never more often than its δ, whatever the distribution.

    python -m benchmarks.coverage [--quick] [--json FILE] [--repetitions N]

One repetition draws 200 errors from a known law, makes every statement that a run makes at δ = 0.05, and
looks whether it is true of the law. Laws: smooth, heavy-tailed, ten values only, and zero but for one in
fifty. "chosen ratio" prunes harder until a candidate fails (learn then test, and once more with half of the
samples to choose and the other half to certify); it is wrong where the candidate that was accepted is not as
good as claimed. 2 000 repetitions by default, 20 s; `--quick` makes 200.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.bounds import exceeding, statistical

Floats = npt.NDArray[np.float64]

DELTA, SHARE, SAMPLES, LIMIT = 0.05, 0.9, 200, 1.0
RANGE = 10.0
"""Largest error of the laws with a bounded range."""


@dataclass(frozen=True, slots=True)
class Law:
    """A distribution of errors whose truth is known.

    Attributes:
        draw: n errors.
        above: P(error > t).
        mean: None where errors have no bounded range.
    """

    draw: Callable[[np.random.Generator, int], Floats]
    above: Callable[[float], float]
    mean: float | None


LAWS: dict[str, Law] = {
    "smooth": Law(
        lambda r, n: RANGE * r.beta(2, 5, n), lambda t: float(stats.beta.sf(t / RANGE, 2, 5)), RANGE * 2 / 7
    ),
    "heavy tail": Law(lambda r, n: r.pareto(1.5, n), lambda t: float((1 + max(t, 0.0)) ** -1.5), None),
    "ten values": Law(
        lambda r, n: np.floor(r.random(n) * 10).astype(np.float64),
        lambda t: (9 - min(max(np.floor(t), -1), 9)) / 10,
        4.5,
    ),
    "one in fifty": Law(
        lambda r, n: np.where(r.random(n) < 0.02, RANGE, 0.0),
        lambda t: 0.02 if 0 <= t < RANGE else float(t < 0),
        0.02 * RANGE,
    ),
}


def mistakes(law: Law, errors: Floats) -> dict[str, bool]:
    """By statement, whether it is false of the law."""
    wrong: dict[str, bool] = {}
    bound = statistical.quantile(errors, SHARE, DELTA).bound
    wrong["quantile"] = bound is not None and law.above(bound) > 1 - SHARE + 1e-12
    events = int((errors > LIMIT).sum())
    rate = statistical.rate(events, len(errors), DELTA).bound
    wrong["rate"] = rate is not None and rate < law.above(LIMIT)
    after = float(np.median(errors))  # a threshold chosen after looking
    share = statistical.exceedance(errors, after, DELTA).bound
    wrong["exceedance, chosen after"] = share is not None and share < law.above(after)
    curve = exceeding.whole_distribution(errors, DELTA)
    assert curve is not None
    wrong["whole distribution"] = any(
        law.above(t) > b + 1e-12 for t, b in zip(curve.thresholds, curve.bounds, strict=True)
    )
    if law.mean is not None:
        for name, how in (
            ("mean, empirical Bernstein", statistical.mean_bernstein),
            ("mean, betting", statistical.mean_betting),
        ):
            found = how(errors, RANGE, DELTA).bound
            wrong[name] = found is not None and found < law.mean
    return wrong


def choices(random: np.random.Generator, samples: int) -> dict[str, bool]:
    """Whether a candidate was accepted that keeps less than SHARE of all inputs within the limit.

    Seven candidates err more and more, scaled from one draw so that they go wrong together; the truth
    of the third is just on the wrong side, which is where mistakes are made.
    """
    base = random.exponential(size=samples)
    worst = -1 / np.log(1 - SHARE) * LIMIT  # the scale at which exactly SHARE of all inputs obey
    scales = worst * np.array([0.5, 0.75, 1.001, 1.02, 1.1, 1.5, 2.0])
    table, ratios = scales[:, None] * base[None], np.arange(7.0)

    def bad(index: int | None) -> bool:
        return index is not None and bool(np.exp(-LIMIT / scales[index]) > 1 - SHARE)

    tested, _ = statistical.chosen_ratio(table, ratios, LIMIT, SHARE, DELTA)
    half = samples // 2
    found = [statistical.quantile(e, SHARE, DELTA).bound for e in table[:, :half]]
    good = [k for k, bound in enumerate(found) if bound is not None and bound <= LIMIT]
    wrong = False
    if good:
        bound = statistical.quantile(table[good[-1], half:], SHARE, DELTA).bound
        wrong = bound is not None and bool(np.exp(-bound / scales[good[-1]]) > 1 - SHARE)
    return {"chosen ratio, learn then test": bad(tested), "chosen ratio, fresh split": wrong}


def missed(repetitions: int, samples: int = SAMPLES, seed: int = 0) -> dict[tuple[str, str], int]:
    """By statement and law, how many of the repetitions made a false one."""
    random = np.random.default_rng(seed)
    count: dict[tuple[str, str], int] = {}
    for _ in range(repetitions):
        for name, law in LAWS.items():
            for statement, wrong in mistakes(law, law.draw(random, samples)).items():
                count[statement, name] = count.get((statement, name), 0) + wrong
        for statement, wrong in choices(random, samples).items():
            count[statement, "seven candidates"] = count.get((statement, "seven candidates"), 0) + wrong
    return count


def allowed(repetitions: int, delta: float = DELTA, doubt: float = 1e-4) -> float:
    """The share of mistakes that a statement of confidence 1 − δ exceeds with probability ≤ `doubt`."""
    k = np.arange(repetitions + 1)
    enough = special.bdtr(k, repetitions, delta) >= 1 - doubt
    return float(k[enough][0]) / repetitions


def main() -> None:
    """Print the table."""
    parser = options(__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    chosen = parser.parse_args()
    repetitions = 200 if chosen.quick else chosen.repetitions
    rows = environment_rows()
    for (statement, law), count in missed(repetitions).items():
        rows.append(Row(statement, "", "", law, 100 * count / repetitions, "%", 0))
    rows += [
        Row(name, "", "", "repetitions", repetitions, "", 0)
        for name in dict.fromkeys(r.subject for r in rows)
        if name != "environment"
    ]
    finish(rows, by_figure, chosen.json)


if __name__ == "__main__":
    main()
