from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import LAWS, allowed, missed
from edgeprune.bounds import exceeding, statistical
from edgeprune.errors import BoundViolated, UsageError


@pytest.mark.parametrize(
    ("share", "delta", "n"),
    [
        (0.95, 0.05, 59),
        (0.99, 0.05, 299),
        (0.99, 0.01, 459),
        (0.999, 0.05, 2995),
        (0.9999, 0.05, 29956),
        (0.5, 0.5, 1),
    ],
)
def test_known_sample_sizes(share: float, delta: float, n: int) -> None:
    assert statistical.samples_for_quantile(share, delta) == n
    errors = np.arange(n, dtype=np.float64)
    assert statistical.quantile(errors, share, delta).bound == n - 1
    short = statistical.quantile(errors[:-1], share, delta)
    assert short.bound is None
    assert str(n) in short.reason


def test_the_rank_is_the_smallest_that_is_valid() -> None:
    for n, share, delta in [(100, 0.95, 0.05), (500, 0.99, 0.05), (1000, 0.9, 0.01), (797, 0.95, 0.05)]:
        bound = statistical.quantile(np.arange(1, n + 1), share, delta).bound
        assert bound is not None
        k = int(bound)
        assert stats.binom.cdf(k - 1, n, share) >= 1 - delta
        assert stats.binom.cdf(k - 2, n, share) < 1 - delta


def coverage_limit(delta: float, runs: int) -> float:
    return delta + 3 * math.sqrt(delta * (1 - delta) / runs)


def test_quantile_covers_whatever_the_distribution() -> None:
    rng = np.random.default_rng(0)
    runs, n, share, delta = 1500, 120, 0.95, 0.1
    draws = {
        "lognormal": (lambda: rng.lognormal(0, 1, n), stats.lognorm(1).ppf(share)),
        "atoms": (lambda: rng.integers(0, 4, n).astype(float), 3.0),
        "mostly zero": (lambda: (rng.random(n) < 0.05001) * 1.0, 1.0),
    }
    for name, (draw, truth) in draws.items():
        missed = sum(statistical.quantile(draw(), share, delta).bound < truth for _ in range(runs))
        assert missed / runs <= coverage_limit(delta, runs), name


def test_rate_covers() -> None:
    rng = np.random.default_rng(1)
    runs, n, delta = 3000, 80, 0.1
    for p in (0.01, 0.1, 0.5, 0.95):
        bounds = {k: statistical.rate(k, n, delta).bound for k in range(n + 1)}
        missed = np.mean([bounds[int(k)] < p for k in rng.binomial(n, p, runs)])
        assert missed <= coverage_limit(delta, runs)


def test_rate_known_numbers() -> None:
    assert statistical.rate(0, 300, 0.05).bound == pytest.approx(1 - 0.05 ** (1 / 300))
    assert statistical.rate(7, 7, 0.05).bound == 1.0
    assert statistical.rate(0, 0, 0.05).bound is None
    exact = stats.binomtest(5, 100).proportion_ci(0.9, method="exact").high
    assert statistical.rate(5, 100, 0.05).bound == pytest.approx(exact)


@pytest.mark.parametrize("method", [statistical.mean_bernstein, statistical.mean_betting])
def test_means_cover(method: object) -> None:
    rng = np.random.default_rng(2)
    runs, delta = 400, 0.1
    for n, draw, mean in [
        (60, lambda n: rng.beta(1, 9, n), 0.1),
        (60, lambda n: (rng.random(n) < 0.5) * 1.0, 0.5),
        (200, lambda n: (rng.random(n) < 0.02) * 1.0, 0.02),
    ]:
        missed = np.mean([method(draw(n) * 3, 3.0, delta).bound < 3 * mean for _ in range(runs)])  # type: ignore[operator]
        assert missed <= coverage_limit(delta, runs)


def test_betting_is_the_tightest_and_is_in_range() -> None:
    e = np.random.default_rng(4).beta(2, 60, 800)
    betting = statistical.mean_betting(e, 1.0, 0.05).bound
    bernstein = statistical.mean_bernstein(e, 1.0, 0.05).bound
    assert betting is not None
    assert bernstein is not None
    hoeffding = e.mean() + math.sqrt(math.log(20) / 1600)
    assert e.mean() < betting < bernstein < hoeffding
    assert statistical.mean_betting(e[:3], 1.0, 0.05).bound <= 1.0
    assert statistical.mean_betting(np.ones(50), 1.0, 0.05).bound == 1.0
    assert statistical.mean_bernstein(e[:1], 1.0, 0.05).bound is None


def test_the_betting_inequality_holds_by_enumeration() -> None:
    """All 2^10 outcomes of ten coins: the probability of a bound below the mean is at most δ."""
    n, delta = 10, 0.2
    for p in (0.1, 0.3, 0.6, 0.9):
        wrong = 0.0
        for outcome in range(2**n):
            y = np.array([(outcome >> i) & 1 for i in range(n)], dtype=float)
            if statistical.mean_betting(y, 1.0, delta).bound < p:
                wrong += p ** y.sum() * (1 - p) ** (n - y.sum())
        assert wrong <= delta


def test_exceedance_holds_for_all_thresholds_at_once() -> None:
    rng = np.random.default_rng(5)
    runs, n, delta = 1500, 100, 0.1
    width = statistical.band(n, delta)
    assert width is not None
    missed = 0
    for _ in range(runs):
        u = np.sort(rng.random(n))
        missed += np.max(np.arange(1, n + 1) / n - u) > width  # sup of Fₙ − F
    assert missed / runs <= coverage_limit(delta, runs)
    statement = statistical.exceedance(np.arange(100.0), 89.5, delta)
    assert statement.bound == pytest.approx(0.1 + width)
    assert statistical.exceedance(np.zeros(1), 0.0, 0.05).bound is None
    assert "2 are needed" in statistical.exceedance(np.zeros(1), 0.0, 0.05).reason


def test_monotone() -> None:
    e = np.random.default_rng(6).random(400)
    by_share = [statistical.quantile(e, share, 0.05).bound for share in (0.5, 0.8, 0.9, 0.95, 0.99)]
    assert by_share == sorted(by_share)
    by_delta = [statistical.quantile(e, 0.9, delta).bound for delta in (0.5, 0.1, 0.01, 1e-6)]
    assert by_delta == sorted(by_delta)
    by_events = [statistical.rate(k, 100, 0.05).bound for k in range(101)]
    assert by_events == sorted(by_events)
    by_n = [statistical.rate(0, n, 0.05).bound for n in (1, 10, 100, 1000)]
    assert by_n == sorted(by_n, reverse=True)
    for method in (statistical.mean_bernstein, statistical.mean_betting):
        worse = [method(np.minimum(1, e + shift), 1.0, 0.05).bound for shift in (0.0, 0.1, 0.2)]
        assert worse == sorted(worse)


def test_what_is_not_finite_is_never_certified() -> None:
    e = np.ones(59)
    e[3] = math.nan
    statement = statistical.quantile(e, 0.95, 0.05)
    assert statement.bound is None
    assert "1 of 59" in statement.reason
    with pytest.raises(BoundViolated):
        statistical.mean_betting(e, 2.0, 0.05)
    with pytest.raises(BoundViolated, match=r"1\.5"):
        statistical.mean_bernstein([0.1, 1.5], 1.0, 0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistical.quantile([1.0], 1.0, 0.05),
        lambda: statistical.quantile([1.0], 0.9, 0.0),
        lambda: statistical.quantile([[1.0]], 0.9, 0.05),
        lambda: statistical.rate(3, 2, 0.05),
        lambda: statistical.band(10, 0.6),
        lambda: statistical.mean_betting([0.1, 0.2], math.inf, 0.05),
    ],
)
def test_impossible_questions_are_refused(call: object) -> None:
    with pytest.raises(UsageError):
        call()  # type: ignore[operator]


def test_a_ratio_chosen_and_then_certified_on_the_same_samples() -> None:
    """In repetitions a candidate that breaks the limit too often is accepted in at most δ of them."""
    random = np.random.default_rng(0)
    share, delta, n = 0.9, 0.1, 120
    ratios = np.array([0.25, 0.5, 0.75])
    rates = np.array([0.02, 0.1001, 0.4])  # of errors above the limit; the second is just too bad
    wrong = accepted = 0
    for _ in range(600):
        errors = (random.random((3, n)) < rates[:, None]).astype(float)
        chosen, said = statistical.chosen_ratio(errors, ratios, 0.5, share, delta)
        wrong += chosen is not None and rates[chosen] > 1 - share
        accepted += chosen == 0
        assert (chosen is None) == (said.bound is None)
    assert wrong / 600 <= delta + 0.03
    assert accepted > 300


def test_a_ratio_needs_rows_of_errors() -> None:
    with pytest.raises(UsageError, match="one row of errors a ratio"):
        statistical.chosen_ratio([1.0, 2.0], [0.5], 1.0, 0.9, 0.1)
    chosen, said = statistical.chosen_ratio([[np.nan] * 100], [0.5], 1.0, 0.9, 0.1)
    assert chosen is None
    assert "mildest" in said.reason


def test_no_statement_of_a_run_is_false_more_often_than_delta() -> None:
    """The benchmark's repetitions, fewer of them: every statement, every law."""
    runs = 200
    for (statement, law), count in missed(runs, seed=1).items():
        assert count / runs <= allowed(runs), (statement, law)


def test_the_benchmark_would_see_a_wrong_statement() -> None:
    """A quantile bound that ignores the confidence is caught."""
    draw = np.random.default_rng(0)
    law, runs = LAWS["smooth"], 200
    wrong = sum(law.above(float(np.quantile(law.draw(draw, 200), 0.9))) > 0.1 for _ in range(runs))
    assert wrong / runs > allowed(runs)


def test_the_whole_distribution_is_tight_in_the_tail_and_monotone() -> None:
    errors = np.arange(1.0, 2049.0)
    curve = exceeding.whole_distribution(errors, 0.05)
    assert curve is not None
    assert curve.thresholds[-1] == 2048
    width = statistical.band(2048, 0.025)
    assert width is not None
    assert curve.bounds[-1] < width / 5
    assert all(b > a for a, b in zip(curve.above, curve.bounds, strict=True))
    assert max(b - a for a, b in zip(curve.above, curve.bounds, strict=True)) <= width * (1 + 1e-12)
    assert list(curve.bounds) == sorted(curve.bounds, reverse=True)
    assert exceeding.whole_distribution([], 0.05) is None
    assert exceeding.whole_distribution([1.0, np.inf], 0.05) is None
