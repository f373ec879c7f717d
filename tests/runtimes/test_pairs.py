from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edgeprune.runtimes.pairs import median_log_ratio, percentile_upper, ratio_interval


def test_a_launch_is_the_median_of_its_log_ratios() -> None:
    times = np.array([[1.0, 2.0], [2.0, 2.0], [1.0, 8.0]])
    assert median_log_ratio(times) == pytest.approx(math.log(2))
    assert median_log_ratio(times[:, ::-1]) == pytest.approx(-math.log(2))  # symmetric


def test_an_interruption_does_not_move_it() -> None:
    times = np.full((101, 2), 1.0)
    times[:30, 1] = 1000.0
    assert median_log_ratio(times) == 0.0


def test_the_interval_is_students() -> None:
    # a textbook sample: mean 5, standard deviation 2, n = 4, t(0.975, 3) = 3.1824
    logs = [x / 100 for x in (5 - math.sqrt(6), 5 + math.sqrt(6), 5, 5)]
    interval = ratio_interval(logs, 0.95)
    assert interval.half_width == pytest.approx(0.0318245, rel=1e-5)
    assert interval.ratio == pytest.approx(math.exp(0.05))
    assert math.log(interval.low) == pytest.approx(0.05 - interval.half_width)
    assert math.log(interval.high) == pytest.approx(0.05 + interval.half_width)
    assert interval.launches == 4


def test_the_interval_agrees_with_scipys() -> None:
    logs = np.random.default_rng(0).standard_normal(9)
    low, high = stats.t.interval(0.9, 8, loc=logs.mean(), scale=stats.sem(logs))
    interval = ratio_interval(list(logs), 0.9)
    assert (interval.low, interval.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_one_launch_gives_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2, not 1"):
        ratio_interval([0.1], 0.95)


def test_a_percentile_bound_needs_59_values() -> None:
    values = list(range(1, 60))
    assert percentile_upper(values[:58], 0.95, 0.95) is None
    assert percentile_upper(values, 0.95, 0.95) == 59.0
    # of 93 values the second largest is enough: P(Bin(93, .95) <= 91) = .9500
    assert percentile_upper(range(1, 94), 0.95, 0.95) == 92.0


def test_a_percentile_bound_covers() -> None:
    """The share of samples whose bound is below the true percentile is at most 5 %."""
    generator = np.random.default_rng(3)
    truth = stats.expon.ppf(0.95)
    below = sum(percentile_upper(generator.exponential(size=200), 0.95, 0.95) < truth for _ in range(2000))
    assert below / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def launch_figures(generator: np.random.Generator, launches: int, shift: float) -> list[float]:
    """Launches of an imaginary machine: 1.8 % of luck a launch, pairs with heavy tails."""
    return [
        median_log_ratio(np.exp(np.stack([np.zeros(50), shift + luck + 0.03 * tails], axis=1)))
        for luck, tails in zip(
            generator.normal(0, 0.018, launches), generator.standard_t(2, (launches, 50)), strict=True
        )
    ]


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_interval_covers_the_true_ratio(shift: float) -> None:
    generator = np.random.default_rng(7)
    missed = 0
    for _ in range(1500):
        interval = ratio_interval(launch_figures(generator, 8, shift), 0.95)
        missed += not interval.low <= math.exp(shift) <= interval.high
    assert 0.03 < missed / 1500 < 0.07


def test_equal_models_raise_few_alarms() -> None:
    """A/A at a limit of 1.025: a false alarm needs the whole interval above it."""
    generator = np.random.default_rng(11)
    intervals = [ratio_interval(launch_figures(generator, 8, 0.0), 0.95) for _ in range(1000)]
    alarms = sum(i.low > 1.025 for i in intervals)
    slower = [ratio_interval(launch_figures(generator, 8, math.log(1.14)), 0.95) for _ in range(300)]
    assert alarms / 1000 < 0.01
    assert all(i.low > 1.025 for i in slower)  # a slow-down of 14 % is always seen
