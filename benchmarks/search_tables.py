"""The layouts of search.py and scale.py in the documents; nothing here imports what they measure with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.harness import ENVIRONMENT, Row, Table, environment_line, number

TIME = "time"


def ways(rows: Sequence[Row]) -> Table:
    """A line per subject, device and way to spend measurements: hypervolumes over the seeds, and seconds."""
    figures = [row for row in rows if row.subject not in (ENVIRONMENT, "")]
    ways = dict.fromkeys((r.subject, r.size, r.method) for r in figures if r.method != TIME)
    lines = [
        (*key, _spread(figures, key, "hypervolume"), _spread(figures, key, "measurements")) for key in ways
    ]
    spent = [
        f"{subject}, {device}: " + ", ".join(f"{r.figure} {number(float(r.value))} s" for r in mine)
        for subject, device in dict.fromkeys((r.subject, r.size) for r in figures)
        if (mine := [r for r in figures if (r.subject, r.size, r.method) == (subject, device, TIME)])
    ]
    caption = f"Seconds by step, all ways and seeds together: {'; '.join(spent)}. " if spent else ""
    columns = ("net", "device", "way", "hypervolume", "measurements")
    return Table(columns, tuple(lines), caption + environment_line(rows))


def _spread(rows: Sequence[Row], key: tuple[str, str, str], figure: str) -> str:
    """The median over the seeds, and the least and largest where they differ."""
    values = sorted(
        float(r.value) for r in rows if ((r.subject, r.size, r.method), r.figure) == (key, figure)
    )
    form = "{:.0f}" if all(value == int(value) for value in values) else "{:.3f}"
    ends = f" ({form.format(values[0])} to {form.format(values[-1])})" if values[0] < values[-1] else ""
    return form.format(statistics.median(values)) + ends


def scaled(rows: Sequence[Row]) -> Table:
    """A line per number of devices; overhead, memory and the start of a resumed search below."""
    figures = [row for row in rows if row.subject != ENVIRONMENT]
    devices = [row for row in figures if row.method == "emulated devices"]
    columns = ("measurements an hour", "of linear")
    found = {(row.size, row.figure): float(row.value) for row in devices}
    lines = [
        (count, f"{found[count, columns[0]]:.0f}", f"{number(found[count, columns[1]])} %")
        for count in dict.fromkeys(row.size for row in devices)
    ]
    told = [
        f"{row.method}, {row.size}: {number(float(row.value))} {row.unit} ({row.figure})"
        for row in figures
        if row.method != "emulated devices"
    ]
    caption = f"{'; '.join(told)}. " if told else ""
    return Table(("emulated devices", *columns), tuple(lines), caption + environment_line(rows))
