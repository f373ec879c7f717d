"""The layouts of search.py and scale.py in the documents; nothing here imports what they measure with."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import ENVIRONMENT, Row, Table, environment_line, number

TIME = "time"


def ways(rows: Sequence[Row]) -> Table:
    """A line per subject and way to spend trials: the front's hypervolume, and the measurements it took."""
    figures = [row for row in rows if row.subject not in (ENVIRONMENT, "")]
    found = {(r.subject, r.method, r.figure): r.value for r in figures}
    lines = [
        (f"{subject}, {way}", f"{found[subject, way, 'hypervolume']:.3f}",
         str(found[subject, way, "measurements"]))
        for subject, way in dict.fromkeys((r.subject, r.method) for r in figures if r.method != TIME)
    ]  # fmt: skip
    spent = [
        f"{subject}: " + ", ".join(f"{r.figure} {number(float(r.value))} s" for r in mine)
        for subject in dict.fromkeys(r.subject for r in figures)
        if (mine := [r for r in figures if (r.subject, r.method) == (subject, TIME)])
    ]
    caption = f"Seconds by step, all ways together: {'; '.join(spent)}. " if spent else ""
    return Table(("net, way", "hypervolume", "measurements"), tuple(lines), caption + environment_line(rows))


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
