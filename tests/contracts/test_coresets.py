"""Every registered coreset, on evidence of several kinds."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from edgeprune.coresets import CORESETS, Evidence, Hearing
from edgeprune.coresets.coreset import Floats
from edgeprune.coresets.elimination import backward, moments
from edgeprune.coresets.gram import compensation, expected_error
from edgeprune.coresets.sensitivity import ADMISSIBLE, scores
from edgeprune.errors import UnsupportedModel
from edgeprune.plan import Sampling, Selection

N = 10
AT_MOST = {"sensitivity-draws"}
"""Methods that may keep fewer units than asked for."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Evidence with the very samples and weights it was made of, a pair for each reader."""

    evidence: Evidence
    heard: tuple[Floats, ...]
    weights: tuple[Floats, ...]


def case(
    seed: int,
    readers: int = 1,
    makers: int = 1,
    *,
    shiftable: bool = True,
    dead: int = 0,
    copies: bool = False,
) -> Case:
    """Units that say correlated, non-negative things; `dead` of them say and cost nothing."""
    random = np.random.default_rng(seed)
    heard, weights, hearings = [], [], []
    for k in range(readers):
        h = np.maximum(random.normal(size=(60, 6)) @ random.normal(size=(6, N)) + 0.3, 0.0)
        w = random.normal(size=(4, N))
        if copies:
            h[:, N // 2 :] = 2.0 * h[:, : N // 2]
        if dead:
            h[:, :dead] = 0.0
            w[:, :dead] = 0.0
        heard.append(h)
        weights.append(w)
        hearings.append(
            Hearing(
                f"reader{k}",
                w.T @ w,
                np.abs(w).max(0),
                4,
                h.T @ h / 60,
                h.mean(0),
                shiftable,
                queries=w,
                share=np.abs(w).max(0) * h.max(0),
            )
        )
    rows = []
    for _ in range(makers):
        row = random.normal(size=(N, 7))
        row[:dead] = 0.0
        rows.append(row)
    evidence = Evidence(
        "group",
        tuple(rows),
        ("relu",) * makers,
        (3.0,) * makers,
        tuple(hearings),
        tuple(row[:, 0] for row in rows),
        (heard[0] ** 2).mean(0),
    )
    return Case(evidence, tuple(heard), tuple(weights))


CASES = {
    "plain": case(0),
    "without a bias": case(1, shiftable=False),
    "three readers": case(2, readers=3),
    "two makers": case(3, makers=2),
    "some are dead": case(4, dead=2),
    "copies": case(5, copies=True),
}
EVERY = pytest.mark.parametrize("name", sorted(CASES))
METHOD = pytest.mark.parametrize("method", sorted(CORESETS))


def choose(method: str, name: str, size: int, seed: int = 0) -> Selection:
    return CORESETS[method].choose(CASES[name].evidence, size, np.random.default_rng(seed))


def measured(found: Selection, given: Case) -> float:
    """Σ ‖W h − W′ h_S − W shift‖² ÷ Σ ‖W h‖² over the samples themselves."""
    n = given.evidence.size
    mix = np.eye(n)[found.keep] if found.mix is None else found.mix
    shift = np.zeros(n) if found.shift is None else found.shift
    error = energy = 0.0
    for h, w in zip(given.heard, given.weights, strict=True):
        said = h[:, found.keep] @ mix + shift
        error += float(np.mean(np.sum(((h - said) @ w.T) ** 2, axis=1)))
        energy += float(np.mean(np.sum((h @ w.T) ** 2, axis=1)))
    return error / energy


@METHOD
@EVERY
@pytest.mark.parametrize("size", [1, 4, 7])
def test_a_selection_is_sorted_unique_sized_and_finite(method: str, name: str, size: int) -> None:
    found = choose(method, name, size)
    assert found.keep.dtype == np.int64
    assert found.keep.tolist() == sorted(set(found.keep.tolist()))
    assert found.keep.min() >= 0
    assert found.keep.max() < N
    assert 1 <= len(found.keep) <= size if method in AT_MOST else len(found.keep) == size
    if found.mix is not None:
        assert found.mix.shape == (len(found.keep), N)
        assert found.mix.dtype == np.float64
        assert np.isfinite(found.mix).all()
    if found.shift is not None:
        assert found.shift.shape == (N,)
        assert np.isfinite(found.shift).all()
    if found.error is not None:
        assert 0.0 <= found.error < np.inf
    if found.sampling is not None:
        assert found.sampling.draws >= len(found.keep)
        assert found.sampling.scores.shape == (N,)
        assert (found.sampling.scores >= 0).all()
        assert Sampling.from_json(found.sampling.to_json()).to_json() == found.sampling.to_json()


@METHOD
@EVERY
def test_a_selection_depends_on_nothing_but_evidence_size_and_generator(method: str, name: str) -> None:
    first, second = choose(method, name, 5, seed=3), choose(method, name, 5, seed=3)
    assert first.keep.tolist() == second.keep.tolist()
    for left, right in ((first.mix, second.mix), (first.shift, second.shift)):
        assert (left is None) == (right is None)
        assert left is None or np.array_equal(left, right)
    assert (first.sampling is None) == (second.sampling is None)
    if first.sampling is not None and second.sampling is not None:
        assert first.sampling.to_json() == second.sampling.to_json()
    assert first.error == second.error
    others = [choose(method, name, 5, seed=seed) for seed in range(20)]
    assert (len({tuple(s.keep.tolist()) for s in others}) > 1) == CORESETS[method].random


@METHOD
@EVERY
def test_a_stated_error_is_that_on_the_very_samples(method: str, name: str) -> None:
    for size in (2, 5, 8):
        found = choose(method, name, size)
        if found.error is not None:
            assert found.error == pytest.approx(measured(found, CASES[name]), rel=1e-6, abs=1e-9)


@METHOD
def test_what_needs_data_states_its_error(method: str) -> None:
    assert (choose(method, "plain", 5).error is not None) == CORESETS[method].needs_data


@pytest.mark.parametrize(
    ("method", "name"),
    # draws do not reach every unit, and never one without sensitivity
    [
        (m, n)
        for m in sorted(set(CORESETS) - AT_MOST)
        for n in CASES
        if not (m.startswith("sensitivity") and n == "some are dead")
    ],
)
def test_removing_nothing_costs_nothing(method: str, name: str) -> None:
    found = choose(method, name, N)
    assert found.keep.tolist() == list(range(N))
    if not CORESETS[method].name.startswith("sensitivity"):  # there the number of draws is random
        assert measured(found, CASES[name]) < 1e-9


@pytest.mark.parametrize("method", ["sensitivity", "sensitivity-draws"])
def test_units_without_sensitivity_are_never_drawn(method: str) -> None:
    for seed in range(20):
        found = choose(method, "some are dead", 6, seed)
        assert found.keep.min() >= 2
        assert found.mix is not None
    if method == "sensitivity":
        with pytest.raises(
            UnsupportedModel, match=r"group: only 8 of its 10 units have any sensitivity, 9 were"
        ):
            choose(method, "some are dead", 9)


def estimates(method: str, size: int, draws: int) -> Floats:
    """W·mixᵀ, put back on all units, for many draws; (draws, outputs, n)."""
    given, random = CASES["plain"], np.random.default_rng(7)
    found = []
    for _ in range(draws):
        selection = CORESETS[method].choose(given.evidence, size, random)
        assert selection.mix is not None
        whole = np.zeros((4, N))
        whole[:, selection.keep] = given.weights[0] @ selection.mix.T
        found.append(whole)
    return np.array(found)


@pytest.mark.parametrize("method", ["sensitivity-draws", "uniform"])
def test_the_estimate_of_the_readers_weights_is_unbiased(method: str) -> None:
    found = estimates(method, 4, 4000)
    deviation = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - CASES["plain"].weights[0]) <= 4.5 * deviation).all()


def test_draws_are_as_many_as_were_asked_for_and_probable_as_the_scores_say() -> None:
    given, random = CASES["plain"], np.random.default_rng(1)
    score = scores(given.evidence)
    probability = score / score.sum()
    counts = np.zeros(N)
    for _ in range(500):
        found = CORESETS["sensitivity-draws"].choose(given.evidence, 8, random)
        assert found.sampling is not None
        assert found.sampling.draws == 8
        assert found.sampling.fixed
        assert found.mix is not None
        own = found.mix[np.arange(len(found.keep)), found.keep]
        counts[found.keep] += own * 8 * probability[found.keep]
    assert counts.sum() == pytest.approx(500 * 8)
    spread = np.sqrt(500 * 8 * probability * (1 - probability))
    assert (np.abs(counts - 500 * 8 * probability) <= 4.5 * spread).all()


def test_sensitivities_are_the_largest_over_readers_and_makers() -> None:
    given = CASES["three readers"].evidence
    peak = np.max([hearing.peak for hearing in given.hearings], axis=0)
    expected = peak * np.linalg.norm(given.rows[0], axis=1)
    np.testing.assert_allclose(scores(given) / scores(given).sum(), expected / expected.sum())
    two = CASES["two makers"].evidence
    largest = np.max([np.linalg.norm(rows, axis=1) for rows in two.rows], axis=0)
    expected = two.hearings[0].peak * largest
    np.testing.assert_allclose(scores(two) / scores(two).sum(), expected / expected.sum())


@pytest.mark.parametrize("activation", sorted(ADMISSIBLE))
def test_admissible_activations_are_non_negative_and_never_fall(activation: str) -> None:
    values = ADMISSIBLE[activation](np.linspace(-30, 30, 2001))
    assert (values >= 0).all()
    assert (np.diff(values) >= 0).all()


def changed(**changes: object) -> Evidence:
    return dataclasses.replace(CASES["plain"].evidence, **changes)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (changed(activations=("gelu",)), "non-negative, non-decreasing activation .*, not gelu"),
        (changed(activations=("sigmoid",), radii=(None,)), "need a bound on the norm"),
        (changed(hearings=()), "nothing reads its units"),
    ],
)
def test_a_failing_assumption_of_the_theorem_is_said(evidence: Evidence, said: str) -> None:
    for method in ("sensitivity", "sensitivity-draws"):
        with pytest.raises(UnsupportedModel, match=f"group: .*{said}") as caught:
            CORESETS[method].choose(evidence, 3, np.random.default_rng(0))
        assert caught.value.exit_code == 3


def test_sensitivity_takes_a_bounded_activation_where_the_norm_is_known() -> None:
    evidence = changed(activations=("sigmoid",), radii=(2.0,))
    norms = np.linalg.norm(evidence.rows[0], axis=1)
    expected = evidence.hearings[0].peak / (1 + np.exp(-np.sqrt(5.0) * norms))
    np.testing.assert_allclose(scores(evidence), expected)


@pytest.mark.parametrize(
    "hearings", [(), (dataclasses.replace(CASES["plain"].evidence.hearings[0], moment=None),)]
)
def test_gram_refuses_what_it_knows_nothing_of(hearings: tuple[Hearing, ...]) -> None:
    with pytest.raises(UnsupportedModel, match="group: nothing is known of what its readers hear"):
        CORESETS["gram"].choose(changed(hearings=hearings), 3, np.random.default_rng(0))


def test_magnitude_keeps_the_loudest_makers() -> None:
    rows = np.zeros((4, 3))
    rows[:, 0] = [1.0, 3.0, 0.5, 2.0]
    rows[2, 1:] = 1.1  # the l1 norm of the third is 2.7, its l2 norm 1.63
    evidence = dataclasses.replace(CASES["plain"].evidence, rows=(rows,))
    random = np.random.default_rng(0)
    assert CORESETS["magnitude"].choose(evidence, 2, random).keep.tolist() == [1, 3]
    assert CORESETS["magnitude-l1"].choose(evidence, 2, random).keep.tolist() == [1, 2]
    two = dataclasses.replace(evidence, rows=(rows, np.array([[9.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])))
    assert CORESETS["magnitude"].choose(two, 2, random).keep.tolist() == [0, 1]


@EVERY
def test_each_step_of_the_elimination_is_the_cheapest_there_is(name: str) -> None:
    given = CASES[name]
    hearings = given.evidence.hearings

    def relative(keep: np.ndarray) -> float:
        """Each reader alone, with a mix of its own, relative to the energy of what it hears."""
        total = 0.0
        for hearing in hearings:
            known = moments(hearing)
            ridge = 1e-6 * np.diagonal(known).mean() * np.eye(N)
            inner = (known + ridge)[np.ix_(keep, keep)]
            mix = np.linalg.solve(inner, (known + ridge)[keep])
            rest = (known + ridge) - (known + ridge)[:, keep] @ mix
            total += float((rest * hearing.gram).sum() / max(float((known * hearing.gram).sum()), 1e-300))
        return total

    left = np.arange(N)
    for size in range(N - 1, 0, -1):
        cheapest = min(relative(np.delete(left, k)) for k in range(len(left)))
        left = backward(hearings, size).keep
        assert len(left) == size
        assert relative(left) <= cheapest * (1 + 1e-6) + 1e-9


def test_one_readers_compensation_is_the_least_squares_fit() -> None:
    given, keep = CASES["plain"], np.array([1, 4, 6, 9])
    mix, shift = compensation(given.evidence.hearings, keep)
    h = given.heard[0]
    affine = np.concatenate([h[:, keep], np.ones((60, 1))], axis=1)
    best = np.linalg.lstsq(affine, h, rcond=None)[0]
    np.testing.assert_allclose(h[:, keep] @ mix + shift, affine @ best, atol=1e-3)
    error = expected_error(given.evidence.hearings, keep, mix, shift)
    assert error == pytest.approx(measured(Selection(keep, mix, shift), given), rel=1e-9)


def test_a_constant_goes_into_the_shift_only_where_every_reader_takes_it() -> None:
    keep = np.arange(5)
    assert compensation(CASES["plain"].evidence.hearings, keep)[1].any()
    assert not compensation(CASES["without a bias"].evidence.hearings, keep)[1].any()
    first, *others = CASES["three readers"].evidence.hearings
    mixed = (dataclasses.replace(first, shiftable=False), *others)
    assert not compensation(mixed, keep)[1].any()


def test_copies_are_removed_for_nothing() -> None:
    found = choose("gram", "copies", N // 2)
    assert {k % (N // 2) for k in found.keep.tolist()} == set(range(N // 2))
    assert found.error is not None
    assert found.error < 1e-6


def test_more_units_never_err_more() -> None:
    for name in CASES:
        errors = [choose("gram", name, size).error for size in range(1, N + 1)]
        assert all(
            a is not None and b is not None and b <= a * (1 + 1e-6) + 1e-9 for a, b in pairwise(errors)
        )
