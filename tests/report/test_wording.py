import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.records.run import Check
from edgeprune.report import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "1"),
        (0.31249, "0.312"),
        (266610.0, "266,610"),
        (1.9e-6, "1.9e-6"),
        (-0.00012, "−0.00012"),
        (1e300, "1e300"),
        (5e-324, "5e-324"),
        (12345678.9, "1.23e7"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert wording.number(value) == text


def parse(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_rounding_never_flatters(value: float) -> None:
    assert parse(wording.upper(value)) >= value
    assert parse(wording.lower(value)) <= value
    assert math.isclose(parse(wording.number(value)), value, rel_tol=0.006, abs_tol=1e-320)


@pytest.mark.parametrize(
    ("value", "text"), [(999_600, "1.00 M"), (266_610, "267 k"), (31, "31"), (4.1e9, "4.10 G")]
)
def test_short(value: float, text: str) -> None:
    assert wording.short(value) == text


def test_sizes_and_changes() -> None:
    assert wording.size(1_066_896) == "1.07 MB"
    assert wording.size(12) == "12 B"
    assert wording.change(300, 112) == "−62.7 %"
    assert wording.change(10, 12) == "+20.0 %"
    assert wording.change(10, 10) == "0.0 %"
    assert wording.change(0, 10) == "–"


def test_a_limit_just_missed_reads_as_missed() -> None:
    assert wording.apart(0.80001, 0.8) == ("0.80001", "0.8")
    check = Check("latency_ratio", 0.80001, 0.8, "fail", target="cpu")
    assert wording.check_sentence(check) == "latency_ratio on cpu: measured 0.80001, limit 0.8"


@given(st.text())
def test_cleaned_text_can_be_written(text: str) -> None:
    cleaned = wording.clean(text)
    cleaned.encode("utf-8")
    assert "\n" not in cleaned
    assert "\x00" not in cleaned
    assert len(cleaned) <= wording.LONGEST_TEXT


def test_the_middle_goes_first() -> None:
    assert wording.middle("abcdefghij", 5) == "ab…ij"
    assert len(wording.middle("x" * 99, 30)) == 30
