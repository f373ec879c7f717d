"""The picture of how the error is distributed over the held-out inputs, and of what is promised of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from edgeprune.records.run import Certificate, Run, Validation
from edgeprune.report import svg, wording
from edgeprune.report.charts import Chart

MOST_TARGETS = 4
DASHES = ("-", "--", "-.", ":")
_QUANTILE = re.compile(r"quantile (\d*\.?\d+)")


def distribution(run: Run) -> Chart | None:
    """The share of inputs whose error is at most so large, on every target, with the quantile bounds."""
    measured = [v for v in run.validations if v.drift is not None and _positive(v)][:MOST_TARGETS]
    if not measured:
        return None
    targets = {v.target for v in measured}
    promised = [p for c in run.certificates if c.target in targets and (p := _promise(c)) is not None]
    promised = promised[: 2 * MOST_TARGETS]
    curves = [c for c in run.certificates if c.target in targets and _shown(c)][:MOST_TARGETS]
    words = "; ".join([*map(_seen, measured), *map(_promise_words, promised), *map(_curve_words, curves)])
    image = svg.inline(
        lambda: _draw(measured, promised, curves),
        "distribution",
        "Share of inputs by their output error",
        f"{words}.",
    )
    caption = "Thick: the errors seen on the held-out inputs, sorted."
    if curves:
        caption += (
            " Thin: at least this share of all inputs drawn alike errs by at most that much, at every error "
            f"at once, with {wording.confidence(curves[0].confidence or 0.0)} confidence."
        )
    if promised:
        caption += (
            " Diamond: the statistical bound, which the stated share of all inputs drawn alike stays below "
            f"with {wording.confidence(promised[0].confidence)} confidence."
        )
    return Chart(image, caption)


@dataclass(frozen=True, slots=True)
class _Promise:
    """That a share of all inputs errs by at most a bound, on a target."""

    target: str
    share: float
    bound: float
    confidence: float


def _promise(certificate: Certificate) -> _Promise | None:
    """What a quantile certificate promises, None for another or an empty one."""
    found = _QUANTILE.fullmatch(certificate.name)
    if found is None or certificate.bound is None or certificate.bound <= 0:
        return None
    return _Promise(
        wording.clean(certificate.target or "torch", 60),
        float(found[1]),
        certificate.bound,
        certificate.confidence or 0.0,
    )


def _positive(validation: Validation) -> list[tuple[float, float]]:
    """(error, share) pairs that a log axis can show."""
    pairs = validation.drift.quantiles if validation.drift is not None else ()
    return [(error, share) for share, error in pairs if error > 0]


def _seen(validation: Validation) -> str:
    pairs = _positive(validation)
    middle = next((error for error, share in pairs if share >= 0.5), pairs[-1][0])
    return (
        f"{wording.clean(validation.target, 60)}: half of the inputs err by at most {wording.upper(middle)}, "
        f"all by at most {wording.upper(pairs[-1][0])}"
    )


def _promise_words(said: _Promise) -> str:
    return f"{said.target}: {wording.percent(said.share)} of inputs stay below {wording.upper(said.bound)}"


def _shown(certificate: Certificate) -> list[tuple[float, float]]:
    """(error, least share of all inputs below it) pairs of a bound on the whole distribution."""
    return [(error, 1.0 - bound) for error, _, bound in certificate.curve if error > 0 and bound < 1]


def _curve_words(certificate: Certificate) -> str:
    error, share = _shown(certificate)[-1]
    where = wording.clean(certificate.target or "torch", 60)
    least, most = wording.lower(100 * share), wording.upper(error)
    return f"{where}: at least {least} % of all inputs err by at most {most}"


def _draw(
    measured: Sequence[Validation], promised: Sequence[_Promise], curves: Sequence[Certificate]
) -> Figure:
    figure = Figure(figsize=(8.0, 3.6))
    axes = figure.add_axes((0.1, 0.17, 0.86, 0.78))
    axes.set_xscale("log")
    for k, validation in enumerate(measured):
        errors, shares = zip(*_positive(validation), strict=True)
        name = wording.middle(wording.clean(validation.target), 24)
        axes.step(
            errors, shares, where="post", color=svg.OBSERVED, linewidth=1.8, linestyle=DASHES[k], label=name
        )
    for certificate in curves:
        errors, shares = zip(*_shown(certificate), strict=True)
        axes.step(errors, shares, where="post", color=svg.BOUND, linewidth=1.4)
    for said in promised:
        axes.plot(said.bound, said.share, "D", color=svg.BOUND, markersize=8, clip_on=False, zorder=3)
        axes.plot([said.bound] * 2, [0, said.share], color=svg.BOUND, linewidth=1, linestyle=":")
    if len(measured) > 1:
        axes.legend(loc="lower right", frameon=False)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share of the inputs", color=svg.MUTED)
    axes.set_xlabel(wording.NORMS["linf"], parse_math=False)
    least, most = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 300 * least else (1,), numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.percent(value, 0)))
    axes.grid(color=svg.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure
