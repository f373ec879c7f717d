"""A search as one HTML page: its front as a picture to explore, every point, and what each device did.

The page needs nothing from elsewhere. Its one script draws the front from numbers that stand in the page;
without scripts the table beneath tells the same.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from edgeprune.records.search import Activity, SearchRecord, TrialRecord
from edgeprune.report import svg, wording
from edgeprune.report.charts import Chart, canvas
from edgeprune.report.tables import Column, Table

TEMPLATES = ("search.html.j2", "macros.html.j2")
BARS = 1500
"""Activities that are drawn."""
ROWS = 200
MOST_PLACES = 40


def render(record: SearchRecord) -> str:
    """The page; the same bytes for the same record. Every name of the record is escaped."""
    room = files("edgeprune.report")
    texts = {name: room.joinpath(name).read_text(encoding="utf-8") for name in TEMPLATES}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("search.html.j2").render(
        css=Markup(room.joinpath("report.css").read_text(encoding="utf-8")),
        **explorable(record),
        title=wording.clean(record.model.name) or "unnamed model",
        version=wording.clean(record.environment.edgeprune),
        targets=wording.several(record.targets),
        constraints=wording.several(record.constraints),
        minimized=wording.several(named(key) for key in record.minimized),
        counts=[(state, count) for state, count in sorted(record.counts.items())],
        wall=wording.clean(f"{record.wall_s:.0f} s"),
        chosen=record.chosen,
        timeline=timeline(record.activities),
        seconds=_seconds(record),
    )


def explorable(record: SearchRecord) -> dict[str, Any]:
    """What a page needs to show a front to explore: its points, what draws them, and their table."""
    room = files("edgeprune.report")
    by_number = {trial.number: trial for trial in record.trials}
    return {
        "front_css": Markup(room.joinpath("front.css").read_text(encoding="utf-8")),
        "script": Markup(room.joinpath("front.js").read_text(encoding="utf-8")),
        "data": Markup(_data(record)),
        "front": _table(record, [by_number[number] for number in record.front if number in by_number]),
    }


def named(key: str) -> str:
    """A key of what was found, as people read it."""
    name, _, target = key.partition("@")
    words = {
        "latency": "latency, share of the original's",
        "latency_ms": "latency, ms",
        "p95_ms": "95th percentile latency, ms",
        "memory_mb": "peak memory, MiB",
        "size": "file, share of the original's",
        "size_bytes": "file, bytes",
        "params": "parameters, share",
        "macs": "multiply-accumulates, share",
        "observed_error": "largest output error seen",
        "certified_error": "certified output error",
        "statistical_error": "statistical output error",
        "expected_error": "expected error of the groups' readers",
        "disagreement": "share of changed answers",
        "top1_agreement": "share of equal answers",
        "accuracy": "accuracy",
    }.get(name, name)
    return f"{words} ({target})" if target else words


def _axes(record: SearchRecord) -> list[str]:
    """What can stand on an axis: the objectives, then what else is known of every point of the front."""
    plain = [
        "params",
        "macs",
        "size",
        "observed_error",
        "certified_error",
        "statistical_error",
        "disagreement",
    ]
    more = [f"latency_ms@{target}" for target in record.targets] + plain + ["accuracy"]
    front = set(record.front)
    known = [trial.found for trial in record.trials if trial.number in front]
    extra = [key for key in more if key not in record.minimized and known and all(key in f for f in known)]
    return [*record.minimized, *extra]


def _data(record: SearchRecord) -> str:
    """The points as JSON that can stand inside a script element."""
    axes, front = _axes(record), set(record.front)
    chosen = record.chosen.number if record.chosen else -1
    points = [
        {
            "n": trial.number,
            "kind": "chosen" if trial.number == chosen else "front" if trial.number in front else "other",
            "feasible": trial.feasible,
            "v": [trial.found.get(key) for key in axes],
            "p": {name: wording.clean(_param(value)) for name, value in trial.params.items()},
        }
        for trial in record.trials
        if trial.values
    ]
    text = json.dumps({"axes": [named(key) for key in axes], "points": points}, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _param(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(record: SearchRecord, front: list[TrialRecord]) -> Table | None:
    if not front:
        return None
    keys = _axes(record)
    columns = (
        Column("Trial"),
        *(Column(named(key), "number") for key in keys),
        Column("Share", "number"),
        Column("Method"),
    )
    rows = []
    for trial in front[:ROWS]:
        star = " (chosen)" if record.chosen and trial.number == record.chosen.number else ""
        values = (wording.number(trial.found.get(key)) for key in keys)
        share = trial.params.get("share")
        method = str(trial.params.get("method", record.space.get("methods", ["–"])[0]))
        rows.append(
            (f"{trial.number}{star}", *values, wording.number(share if isinstance(share, float) else None),
             wording.clean(method))
        )  # fmt: skip
    return Table(
        "The front: no other trial is better in every objective.",
        columns,
        tuple(rows),
        len(front) - len(rows),
    )


def _seconds(record: SearchRecord) -> Table | None:
    if not record.seconds:
        return None
    total = sum(record.seconds.values())
    rows = tuple(
        (wording.clean(step), f"{spent:.1f}", f"{spent / total:.0%}" if total else "–")
        for step, spent in sorted(record.seconds.items(), key=lambda item: -item[1])
    )
    columns = (Column("Step"), Column("Seconds", "number"), Column("Share", "number"))
    return Table("Where the time went, summed over workers and devices.", columns, rows)


def timeline(activities: tuple[Activity, ...]) -> Chart | None:
    """What each worker and device did, and when; None where nothing was recorded."""
    shown = activities[-BARS:]
    places = list(dict.fromkeys(activity.where for activity in shown))[:MOST_PLACES]
    if not places:
        return None

    def draw() -> Figure:
        figure, axes = canvas(places)
        for activity in shown:
            if activity.where not in places:
                continue
            colour = svg.BOUND if activity.outcome else svg.BEFORE if activity.step == "make" else svg.AFTER
            width = max(activity.ended_s - activity.began_s, 1e-3)
            axes.barh(
                places.index(activity.where), width, 0.6, left=activity.began_s, color=colour,
                edgecolor=svg.SURFACE, linewidth=0.3,
            )  # fmt: skip
        axes.set_xlabel("seconds since the search began")
        axes.set_xlim(left=0)
        return figure

    lost = sum(1 for activity in shown if activity.outcome)
    words = f"{len(shown)} tasks of {len(places)} workers and devices" + (
        f"; {lost} failed or were lost" if lost else ""
    )
    caption = "Light: nets being made. Dark: measurements. The third colour marks what failed or was lost."
    return Chart(svg.inline(draw, "timeline", "What each worker and device did, and when", words), caption)
