"""Numbers and names as people read them.

Rounding never flatters: a bound and the upper end of an interval are rounded up, a lower end down, so
that what is printed is still true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from edgeprune.records.run import Check, Label, Latency

NOTHING = "–"
LONGEST_TEXT = 300

LABELS: dict[Label, str] = {
    "proved": "holds for every input of its domain, by a theorem",
    "proved-modulo-rounding-model": (
        "holds for every input of its domain if the device's arithmetic rounds as the standard model says"
    ),
    "statistical": "holds with the stated confidence for inputs drawn like the data",
    "observed": "the largest value seen; no statement about inputs that were not tried",
}

NORMS = {
    "linf": "largest absolute difference",
    "relative-linf": "largest difference relative to the output",
    "relative-l2": "relative difference",
    "rate": "share of inputs",
}

TERMS = {
    "prune": "original → masked twin",
    "masking": "masked twin → shrunk net",
    "export": "shrunk net → ONNX",
    "simplify": "ONNX → simplified ONNX",
    "fp16": "simplified ONNX → its weights in float16",
    "rounding": "ONNX file → device",
}

OUTCOMES = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "unavailable": "unavailable",
}

# What XML 1.0 cannot hold, lone surrogates included: such characters in a name would break a file.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: Any, longest: int = LONGEST_TEXT) -> str:
    """`text` on one line, without what files cannot hold, cut after `longest` characters."""
    flat = " ".join(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text)).split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def several(texts: Iterable[str], most: int = 40) -> tuple[str, ...]:
    """The texts, cleaned; of more than `most`, the first ones and how many were left out."""
    every = tuple(texts)
    more = (f"and {len(every) - most} more, see run.json",) if len(every) > most else ()
    return (*(clean(text) for text in every[:most]), *more)


def middle(text: str, longest: int) -> str:
    """`text` with its middle left out where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return text[:head] + "…" + text[len(text) - (longest - 1 - head) :]


def number(value: float | None, digits: int = 3, rounding: str = ROUND_HALF_EVEN) -> str:
    """`value` with so many significant digits; whole digits are never dropped."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    exact = Decimal(repr(float(value)))
    last = min(exact.adjusted() - digits + 1, 0)
    context = Context(prec=400)
    rounded = exact.quantize(Decimal(1).scaleb(last), rounding=rounding, context=context)
    if rounded == 0:
        return "0"
    if -4 <= rounded.adjusted() < 7:
        text = f"{rounded:,f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        short = Context(prec=digits, rounding=rounding).plus(exact).normalize()
        mantissa = Decimal((0, short.as_tuple().digits, 1 - len(short.as_tuple().digits)))
        text = f"{'-' if short < 0 else ''}{mantissa:f}e{short.adjusted()}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def upper(value: float | None, digits: int = 3) -> str:
    """A bound, rounded up."""
    return number(value, digits, ROUND_CEILING)


def lower(value: float | None, digits: int = 3) -> str:
    """A lower end, rounded down."""
    return number(value, digits, ROUND_FLOOR)


def apart(first: float, second: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    for digits in (3, 4, 6, 9):
        texts = number(first, digits), number(second, digits)
        if texts[0] != texts[1] or first == second:
            return texts
    return repr(first), repr(second)


def count(value: int) -> str:
    """A whole number with its thousands set apart."""
    return f"{value:,}"


def short(value: float) -> str:
    """A large count in three digits and a prefix: 266610 is 267 k."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * factor:
            return f"{_three(value / factor)} {unit}"
    return number(value)


def size(size_bytes: int) -> str:
    """Bytes in three digits: 1066896 is 1.07 MB."""
    text = short(size_bytes)
    return f"{text}B" if text[-1] in "kMGT" else f"{text} B"


def change(before: float, after: float) -> str:
    """The change from `before` to `after` in per cent, with its sign."""
    if before == 0:
        return NOTHING
    percent = 100 * (after - before) / before
    text = f"{abs(percent):.1f} %"
    return text if text == "0.0 %" else ("−" if percent < 0 else "+") + text


def percent(share: float | None, digits: int = 2) -> str:
    """A share as per cent."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def milliseconds(value: float | None) -> str:
    """A duration in milliseconds."""
    return NOTHING if value is None else f"{number(value)} ms"


def seconds(value: float) -> str:
    """A duration in seconds."""
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def interval(latency: Latency) -> str:
    """The confidence interval of a latency ratio, rounded outward."""
    return f"{lower(latency.ratio_low)} to {upper(latency.ratio_high)}"


def confidence(value: float | None) -> str:
    """A confidence, as 95 %."""
    return NOTHING if value is None else f"{number(100 * value, 4, ROUND_FLOOR)} %"


def speed(latency: Latency) -> str:
    """What a latency's interval says, in words."""
    if latency.quality == "inconclusive":
        return "not settled"
    if latency.ratio_high < 1:
        return "faster"
    if latency.ratio_low > 1:
        return "slower"
    return "no difference shown"


def check_sentence(check: Check) -> str:
    """One check in words: what, where, the numbers, and the reason."""
    where = f" on {clean(check.target)}" if check.target else ""
    if check.measured is not None and check.limit is not None:
        measured, limit = apart(check.measured, check.limit)
        numbers = f"measured {measured}, limit {limit}"
    elif check.measured is not None:
        numbers = f"measured {number(check.measured)}"
    elif check.limit is not None:
        numbers = f"nothing measured, limit {number(check.limit)}"
    else:
        numbers = OUTCOMES[check.outcome]
    reason = f" ({clean(check.reason)})" if check.reason else ""
    return f"{clean(check.name)}{where}: {numbers}{reason}"


def setting(value: Any) -> str:
    """A setting's value on one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return clean(", ".join(setting(item) for item in value)) or "none"
    if isinstance(value, dict):
        return _pairs(value) or "none"
    return clean(value)


def _pairs(value: dict[str, Any]) -> str:
    """What is set in a table, an inner table in brackets."""
    shown = {key: _pairs(item) if isinstance(item, dict) else item for key, item in value.items()}
    kept = {key: item for key, item in shown.items() if item not in (None, "", [], ())}
    inner = {
        key: f"({item})" if isinstance(value[key], dict) else setting(item) for key, item in kept.items()
    }
    return clean(", ".join(f"{key} = {item}" for key, item in inner.items()))


def _three(value: float) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - whole)}f}"
