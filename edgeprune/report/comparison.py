"""Several runs on one page: side by side, and as a front of error against size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from edgeprune.records.run import Run
from edgeprune.report import figures, svg, wording
from edgeprune.report.charts import Chart
from edgeprune.report.html import filled
from edgeprune.report.tables import Column, Table

Named = tuple[str, Run]
MOST = 60


def render_several(runs: Sequence[Named]) -> str:
    """One page for several runs, in the order given.

    Args:
        runs: each with the name it is called by.
    """
    shown = list(runs)[:MOST]
    return filled(
        "comparison.html.j2",
        count=len(runs),
        notes=wording.several(_notes(shown, len(runs))),
        runs=_table(shown),
        targets=_targets(shown),
        front=front(shown),
    )


def _notes(runs: Sequence[Named], total: int) -> Iterator[str]:
    """What keeps the runs from being compared in everything."""
    if total > len(runs):
        yield f"Only the first {len(runs)} of {total} runs are shown."
    if len({run.model.weights_sha256 for _, run in runs}) > 1:
        yield "The runs prune different models (or the same with other weights)."
    kept = [{s.name: s.value for s in run.settings} for _, run in runs]
    for name in ("calibration", "domain"):
        if len({str(values.get(name)) for values in kept}) > 1:
            yield f"The runs differ in {name}: errors are about other inputs, and cannot be compared."


def _table(runs: Sequence[Named]) -> Table:
    columns = (
        Column("Run", "code"),
        Column("Verdict"),
        Column("Method"),
        Column("Parameters", "number"),
        Column("MACs", "number"),
        Column("ONNX file", "number"),
        Column("Output error", "words"),
        Column("Changed answers", "words"),
    )
    rows = []
    for name, run in runs:
        known = {figure.name: figure for figure in figures.key_figures(run)}
        error = next((f for key, f in known.items() if key.startswith("Output error")), None)
        answers = known.get("Changed answers")
        cells = [_value(known.get(key)) for key in ("Parameters", "MACs", "ONNX file")]
        texts = [f"{f.value} ({f.detail})" if f else wording.NOTHING for f in (error, answers)]
        method = wording.clean(run.plan.method) if run.plan else wording.NOTHING
        rows.append((wording.clean(name), figures.standing(run).title, method, *cells, *texts))
    return Table("What each run gave", columns, tuple(rows))


def _value(figure: figures.Figure | None) -> str:
    return figure.value if figure is not None else wording.NOTHING


def _targets(runs: Sequence[Named]) -> Table | None:
    columns = (
        Column("Run", "code"),
        Column("Target"),
        Column("Largest error", "number"),
        Column("Same answer", "number"),
        Column("Accuracy", "number"),
        Column("Latency ratio", "number"),
        Column("Interval", "number"),
        Column("Memory MiB", "number"),
    )
    rows = []
    for name, run in runs:
        for item in run.validations:
            drift, latency = item.drift, item.latency
            same = wording.percent(drift.top1_agreement) if drift else wording.NOTHING
            accuracy = wording.percent(drift.accuracy[1]) if drift and drift.accuracy else wording.NOTHING
            memory = wording.number(item.memory_mb[1]) if item.memory_mb else wording.NOTHING
            rows.append(
                (
                    wording.clean(name),
                    wording.clean(item.target) + ("" if item.reached else " (not reached)"),
                    wording.number(drift.linf_max) if drift else wording.NOTHING,
                    same,
                    accuracy,
                    f"{wording.number(latency.ratio)} ×" if latency else wording.NOTHING,
                    wording.interval(latency) if latency else wording.NOTHING,
                    memory,
                )
            )
    return Table("What each target measured", columns, tuple(rows)) if rows else None


# ------------------------------------------------------------------------------------ the front


def front(runs: Sequence[Named]) -> Chart | None:
    """Largest error seen against the size of the file; those that no other run beats are joined."""
    points = [(name, *point) for name, run in runs if (point := _point(run)) is not None]
    if len(points) < 2:
        return None
    best = undominated([(size, error) for _, size, error in points])
    words = "; ".join(f"{wording.clean(n, 60)}: {s / 1000:.0f} kB, {wording.number(e)}" for n, s, e in points)
    image = svg.inline(
        lambda: _draw(points, best), "front", "Largest output error against file size", words + "."
    )
    return Chart(
        image,
        "Lower and further left is better. Joined: the runs that no other beats in both. Errors observed.",
    )


def _point(run: Run) -> tuple[int, float] | None:
    seen = [v.drift.linf_max for v in run.validations if v.drift is not None]
    pruned = run.artifacts.get("pruned")
    return (pruned.size_bytes, max(seen)) if pruned is not None and seen else None


def undominated(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the points that no other is at most as large as in both, by the first coordinate."""
    found, lowest = [], float("inf")
    for index in sorted(range(len(points)), key=lambda k: points[k]):
        if points[index][1] < lowest:
            found.append(index)
            lowest = points[index][1]
    return tuple(found)


def _draw(points: Sequence[tuple[str, int, float]], best: Sequence[int]) -> Figure:
    figure = Figure(figsize=(8.0, 4.2))
    axes = figure.add_axes((0.1, 0.14, 0.84, 0.8))
    sizes, errors = [size / 1000 for _, size, _ in points], [error for _, _, error in points]
    axes.plot([sizes[k] for k in best], [errors[k] for k in best], color=svg.AFTER, linewidth=1.5, zorder=2)
    colours = [svg.AFTER if k in best else svg.PINNED for k in range(len(points))]
    axes.scatter(sizes, errors, s=48, c=colours, zorder=3)
    for (name, _, _), x, y in zip(points, sizes, errors, strict=True):
        label = wording.middle(wording.clean(name), 24)
        axes.annotate(
            label, (x, y), xytext=(7, 5), textcoords="offset points", color=svg.INK, parse_math=False
        )
    axes.margins(0.15)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("ONNX file, kB")
    axes.set_ylabel("largest output error seen", color=svg.MUTED)
    axes.grid(color=svg.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure
