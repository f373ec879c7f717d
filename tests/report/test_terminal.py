import dataclasses
import io

import pytest
from report_runs import bare_run, full_run
from rich.console import Console

from edgeprune.records.run import GroupRecord, Run, Verdict
from edgeprune.report.terminal import overview, verdict


def show(run: Run, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(overview(run))
    return captured.get()


def test_the_table_tells_the_run() -> None:
    text = show(full_run())
    for words in (
        "fc1",
        "300",
        "112",
        "−62.7 %",
        "95.8 k",
        "385 kB",
        "≤ 15",
        "0.417 ×",
        "0.402 to 0.433",
        "Fail",
    ):
        assert words in text
    assert "observed_error on cpu: measured 0.61, limit 0.5" in text
    assert "left whole: input (an input of the model); fc3 (an output of the model)" in " ".join(text.split())
    assert "not reached: no adapter was found" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_it_fits_the_terminal(width: int) -> None:
    assert max(map(len, show(full_run(), width).splitlines())) <= width


def test_names_bring_no_markup() -> None:
    text = show(dataclasses.replace(full_run("[red]x[/red] [/]"), warnings=("[bold]w",)))
    assert "[red]x[/red] [/]" in text
    assert "! [bold]w" in text


def test_nothing_is_printed_by_asking(capsys: pytest.CaptureFixture[str]) -> None:
    overview(full_run())
    verdict(full_run())
    assert capsys.readouterr().out == ""


def test_almost_nothing_known() -> None:
    assert "Not judged" in show(bare_run())


def test_many_groups_are_cut() -> None:
    full = full_run()
    assert full.plan is not None
    groups = tuple(GroupRecord(f"conv{i}", (), 64, 64 - i) for i in range(40))
    text = show(dataclasses.replace(full, plan=dataclasses.replace(full.plan, groups=groups)))
    assert "and 24 more" in text
    assert "conv39" in text
    assert "conv3 " not in text


@pytest.mark.parametrize("name", ["plan", "verdict"])
def test_each_part_may_be_none(name: str) -> None:
    show(dataclasses.replace(full_run(), **{name: None}))


def test_a_pass_is_said() -> None:
    assert "Pass" in show(dataclasses.replace(full_run(), verdict=Verdict(True)))
