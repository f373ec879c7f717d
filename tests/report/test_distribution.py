"""The pictures of how errors are distributed and of where the time goes."""

from __future__ import annotations

import dataclasses

import numpy as np
from report_runs import bare_run, full_run

from edgeprune.line.by_operation import MOST, paired
from edgeprune.records.run import Candidate, Choice, OperationTime, Run
from edgeprune.report.distribution import distribution
from edgeprune.report.html import render
from edgeprune.report.operation_times import MOST_TARGETS, operation_times
from edgeprune.report.tradeoff import tradeoff
from edgeprune.runtimes.jobs import Operation
from edgeprune.stages.validate import SHARES, error_quantiles


def without_errors(run: Run) -> Run:
    return dataclasses.replace(
        run,
        validations=tuple(
            dataclasses.replace(v, drift=v.drift and dataclasses.replace(v.drift, quantiles=()))
            for v in run.validations
        ),
    )


def test_the_errors_and_the_bound_are_told_in_words() -> None:
    chart = distribution(full_run())
    assert chart is not None
    assert "cpu: half of the inputs err by at most 0.14, all by at most 0.611" in chart.image
    assert "cpu: 99.00 % of inputs stay below 0.542" in chart.image
    assert "cpu: at least 97 % of all inputs err by at most 0.61" in chart.image
    assert "95 % confidence" in chart.caption
    assert "at every error at once" in chart.caption
    bare = dataclasses.replace(full_run(), certificates=())
    said = distribution(bare)
    assert said is not None
    assert "bound" not in said.caption


def test_nothing_measured_is_no_picture() -> None:
    assert distribution(bare_run()) is None
    assert distribution(without_errors(full_run())) is None
    none = full_run().validations[0]
    assert none.drift is not None
    exact = dataclasses.replace(
        none, drift=dataclasses.replace(none.drift, quantiles=((0.0, 0.0), (1.0, 0.0)))
    )
    assert distribution(dataclasses.replace(full_run(), validations=(exact,))) is None


def test_quantiles_are_order_statistics() -> None:
    errors = np.random.default_rng(0).random(997)
    found = dict(error_quantiles(errors))
    assert tuple(found) == SHARES
    assert found[1.0] == errors.max()
    assert found[0.0] == errors.min()
    for share, error in found.items():
        assert error in errors
        assert (errors <= error).mean() >= share
        assert (errors < error).mean() <= share


def test_nodes_are_paired_by_name_and_the_short_ones_summed() -> None:
    before = [Operation(f"n{k}", "Conv", "cpu", 100.0 - k) for k in range(MOST + 5)]
    after = [Operation(f"n{k}", "FusedConv", "cpu", 10.0) for k in range(3)] + [
        Operation("new", "Add", "cpu", 99.5)
    ]
    rows = paired(before, after)
    assert len(rows) == MOST + 1
    assert rows[0] == OperationTime("n0", "FusedConv", 100.0, 10.0)
    assert rows[1] == OperationTime("new", "Add", None, 99.5)
    assert rows[-1].name == "6 other nodes"
    total = sum(row.original_us or 0.0 for row in rows)
    assert total == sum(o.us for o in before)
    assert paired([], []) == ()


def test_every_traced_target_is_shown_up_to_a_few() -> None:
    run = full_run()
    (one,) = operation_times(run)
    assert one.target == "cpu"
    assert "node_linear_2: 1.1 µs before, absent after" in one.chart.image
    assert ("node_linear", "FusedGemm", "31 µs", "11.2 µs", "0.361 ×") in one.table.rows
    many = dataclasses.replace(run, validations=run.validations[:1] * 9)
    assert len(operation_times(many)) == MOST_TARGETS
    assert operation_times(bare_run()) == ()


def test_the_chosen_point_is_ringed_among_those_tried() -> None:
    tried = (Candidate(0.9, 0.2, 0.15), Candidate(0.5, 0.45, 0.4), Candidate(0.2, None, 2.0))
    choice = Choice("fresh-split", 0.5, 0.99, 0.95, 400, tried, 0.5, True)
    chart = tradeoff(dataclasses.replace(full_run(), choice=choice))
    assert chart is not None
    assert "50.00 % kept: largest 0.4, bound 0.45" in chart.image
    assert "20.00 % kept: largest 2, no bound; 50.00 % kept was taken" in chart.image
    assert "though no share kept" not in chart.caption
    worse = tradeoff(dataclasses.replace(full_run(), choice=dataclasses.replace(choice, good=False)))
    assert worse is not None
    assert "though no share kept the limit" in worse.caption
    assert tradeoff(full_run()) is None
    assert "Error against size" in render(dataclasses.replace(full_run(), choice=choice))
