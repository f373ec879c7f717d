"""The picture of error against size that the widths were chosen by, with the chosen point."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from edgeprune.records.run import Choice, Run
from edgeprune.report import svg, wording
from edgeprune.report.charts import Chart

MOST = 60


def tradeoff(run: Run) -> Chart | None:
    """Errors of every share that was tried, and which one was taken; None where nothing was chosen."""
    choice = run.choice
    if choice is None or not choice.candidates:
        return None
    words = "; ".join(
        f"{wording.percent(c.share)} kept: largest {wording.number(c.largest)}, "
        + ("no bound" if c.bound is None else f"bound {wording.upper(c.bound)}")
        for c in choice.candidates[:MOST]
    )
    taken = f"{wording.percent(choice.share)} kept was taken"
    image = svg.inline(
        lambda: _draw(choice), "tradeoff", "Error against the share that is kept", f"{words}; {taken}."
    )
    return Chart(
        image,
        f"Dot: largest error seen on the {wording.count(choice.n)} samples that chose. Diamond: bound of "
        f"their {wording.percent(choice.quantile)} quantile. Dashed: the limit, "
        f"{wording.number(choice.limit)}. Ringed: {taken}"
        f"{'' if choice.good else ', the mildest, though no share kept the limit'}.",
    )


def _draw(choice: Choice) -> Figure:
    figure = Figure(figsize=(8.0, 3.4))
    axes = figure.add_axes((0.1, 0.17, 0.86, 0.78))
    shown = choice.candidates[:MOST]
    axes.plot([c.share for c in shown], [c.largest for c in shown], "o", color=svg.OBSERVED, markersize=6)
    bounded = [(c.share, c.bound) for c in shown if c.bound is not None]
    for share, bound in bounded:
        axes.plot(share, bound, "D", color=svg.BOUND, markersize=6)
    for c in shown:
        if c.share == choice.share:
            axes.plot(
                c.share, c.largest, "o", markersize=15, markerfacecolor="none", markeredgecolor=svg.ATTACKED
            )
    axes.axhline(choice.limit, color=svg.ATTACKED, linewidth=1.5, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    axes.set_xlabel("share that is kept")
    axes.set_ylabel("output error", color=svg.MUTED)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.grid(color=svg.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure
