"""Pictures of rows: widths, the error chain, latencies; None where nothing can be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from edgeprune.records.run import GroupRecord, Latency, Run, Term, Validation
from edgeprune.report import svg, wording

WIDTH_INCHES = 8.0
ROW_INCHES = 0.3
LETTER_INCHES = 0.083
LONGEST_NAME = 30
MOST_ROWS = 48
MOST_LAUNCHES = 64


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture and the words under it."""

    image: Markup
    caption: str


def canvas(
    names: Sequence[str], right_inches: float = 0.2, row_inches: float = ROW_INCHES
) -> tuple[Figure, Axes]:
    """A figure with one named row for each of `names`, the first on top."""
    labels = [wording.middle(wording.clean(name), LONGEST_NAME) for name in names]
    left = 0.25 + LETTER_INCHES * max(len(label) for label in labels)
    rows, bottom, top = row_inches * len(labels), 0.55, 0.1
    height = rows + bottom + top
    figure = Figure(figsize=(WIDTH_INCHES, height))
    width = WIDTH_INCHES - left - right_inches
    axes = figure.add_axes((left / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, rows / height))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    return figure, axes


def beside(axes: Axes, row: float, text: str) -> None:
    """Text at the right of a row, outside the axes."""
    axes.annotate(
        text,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        color=svg.INK,
        parse_math=False,
        annotation_clip=False,
    )


def widths(run: Run) -> Chart | None:
    """Units before and after, a bar a group."""
    groups = [g for g in (run.plan.groups if run.plan else ()) if g.before > 0]
    if not groups:
        return None
    # Where not all fit, those that lost the most are drawn, in the order of the net.
    by_loss = sorted(range(len(groups)), key=lambda i: groups[i].after - groups[i].before)[:MOST_ROWS]
    drawn = [groups[i] for i in sorted(by_loss)]
    free = [g for g in groups if not g.reason_if_pinned]
    before, after = sum(g.before for g in groups), sum(g.after for g in groups)
    caption = (
        f"{wording.count(before)} units before, {wording.count(after)} after, in {len(groups)} groups, "
        f"{len(free)} of which were free to lose units."
    )
    if len(drawn) < len(groups):
        caption += f" The {len(drawn)} groups that lost the most are drawn."
    image = svg.inline(lambda: _draw_widths(drawn), "widths", "Units before and after, per group", caption)
    return Chart(image, caption)


def _draw_widths(groups: Sequence[GroupRecord]) -> Figure:
    figure, axes = canvas([g.name for g in groups], right_inches=1.25)
    rows = range(len(groups))
    after_colours = [svg.PINNED if g.reason_if_pinned else svg.AFTER for g in groups]
    axes.barh(rows, [g.before for g in groups], height=0.62, color=svg.BEFORE)
    axes.barh(rows, [g.after for g in groups], height=0.62, color=after_colours)
    for row, group in enumerate(groups):
        changed = f"{wording.count(group.before)} → {wording.count(group.after)}"
        beside(axes, row, f"{wording.count(group.before)} pinned" if group.reason_if_pinned else changed)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("units")
    axes.margins(x=0)
    axes.set_xlim(left=0)
    return figure


def error_chain(run: Run) -> Chart | None:
    """Bound, attacked and observed error of every link, on a log axis."""
    terms = [t for t in run.terms if any(x is not None for x in (t.bound, t.attacked, t.observed))]
    terms = terms[:MOST_ROWS]
    if not terms:
        return None
    caption = "; ".join(_chain_words(term) for term in terms) + "."
    image = svg.inline(lambda: _draw_chain(terms), "chain", "Error of every link of the chain", caption)
    return Chart(
        image, "Diamond: bound. Triangle: found by attack. Dot: observed. Zeros stand at the left edge."
    )


def _chain_words(term: Term) -> str:
    bound = f"bound {wording.upper(term.bound)}" if term.bound is not None else "no bound"
    attacked = f", attacked {wording.number(term.attacked)}" if term.attacked is not None else ""
    observed = f", observed {wording.number(term.observed)}" if term.observed is not None else ""
    return f"{term.name}: {bound}{attacked}{observed}"


def _draw_chain(terms: Sequence[Term]) -> Figure:
    alike = len({t.norm for t in terms}) == 1
    names = [t.name if alike else f"{t.name} ({t.norm})" for t in terms]
    figure, axes = canvas(names, right_inches=0.3, row_inches=0.42)
    positive = [x for t in terms for x in (t.bound, t.attacked, t.observed) if x is not None and x > 0]
    low, high = (min(positive) / 8, max(positive) * 3) if positive else (1e-9, 1.0)
    marks = (("bound", "D", svg.BOUND), ("attacked", "^", svg.ATTACKED), ("observed", "o", svg.OBSERVED))
    axes.set_xscale("log")
    axes.tick_params(axis="y", pad=9)  # room for the marks of zeros at the left edge
    axes.set_xlim(low, high)
    for row, term in enumerate(terms):
        known = [max(x, low) for x in (term.bound, term.attacked, term.observed) if x is not None]
        axes.plot([min(known), max(known)], [row, row], color=svg.LINE, linewidth=4, zorder=1)
        for attribute, shape, colour in marks:
            value = getattr(term, attribute)
            if value is not None:
                axes.plot(
                    max(value, low * 1.05), row, shape, color=colour, markersize=8, clip_on=False, zorder=3
                )
    axes.xaxis.set_major_locator(LogLocator(numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.grid(axis="x", color=svg.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    label = wording.NORMS.get(terms[0].norm, wording.clean(terms[0].norm, 60)) if alike else "error"
    axes.set_xlabel(label, parse_math=False)
    return figure


def latency(run: Run) -> Chart | None:
    """A forest plot of the latency ratios: interval, launches, noise floor, the line at 1."""
    timed = [v for v in run.validations if v.latency is not None][:MOST_ROWS]
    if not timed:
        return None
    words = "; ".join(_latency_words(v) for v in timed) + "."
    checks = run.verdict.checks if run.verdict else ()
    limits = {c.target: c.limit for c in checks if c.name == "latency_ratio" and c.limit is not None}
    image = svg.inline(
        lambda: _draw_latency(timed, limits), "latency", "Latency of the pruned model ÷ original", words
    )
    caption = (
        "Left of the line at 1 is faster. Square: ratio, with its interval. Dots: one launch each. "
        "Grey band: the noise floor. A hollow square did not settle."
    ) + (" Dashed: the limit of the gate." if limits else "")
    return Chart(image, caption)


def _latency_words(validation: Validation) -> str:
    found = _timed(validation)
    return (
        f"{wording.clean(validation.target, 60)}: {wording.number(found.ratio)}, "
        f"interval {wording.interval(found)}, {wording.speed(found)}"
    )


def _timed(validation: Validation) -> Latency:
    assert validation.latency is not None
    return validation.latency


def _draw_latency(validations: Sequence[Validation], limits: Mapping[str | None, float]) -> Figure:
    figure, axes = canvas([v.target for v in validations], right_inches=2.0, row_inches=0.5)
    ends = [1.0]
    for row, validation in enumerate(validations):
        found = _timed(validation)
        low, high = found.ratio_low, found.ratio_high
        raw = found.raw[:MOST_LAUNCHES]
        ends += [low, high, *raw, 1 - found.noise_floor, 1 + found.noise_floor]
        axes.barh(
            row, 2 * found.noise_floor, left=1 - found.noise_floor, height=0.8, color=svg.BEFORE, zorder=1
        )
        axes.plot(raw, [row + 0.24] * len(raw), "o", color=svg.MUTED, markersize=3, zorder=2)
        axes.plot([low, high], [row, row], color=svg.AFTER, linewidth=2.5, solid_capstyle="butt", zorder=3)
        limit = limits.get(validation.target)
        if limit is not None:
            ends.append(limit)
            axes.plot(
                [limit] * 2,
                [row - 0.42, row + 0.42],
                color=svg.ATTACKED,
                linewidth=2,
                linestyle="--",
                zorder=5,
            )
        inside = svg.AFTER if found.quality == "settled" else svg.SURFACE
        axes.plot(
            found.ratio,
            row,
            "s",
            markersize=8,
            markerfacecolor=inside,
            markeredgecolor=svg.AFTER,
            markeredgewidth=2,
            zorder=4,
        )
        beside(axes, row, f"{wording.number(found.ratio)}  ({wording.interval(found)})")
    axes.axvline(1.0, color=svg.INK, linewidth=1.2, zorder=2)
    room = 0.06 * (max(ends) - min(ends)) or 0.05
    axes.set_xlim(max(0.0, min(ends) - room), max(ends) + room)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.grid(axis="x", color=svg.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("time of the pruned model ÷ time of the original")
    return figure
