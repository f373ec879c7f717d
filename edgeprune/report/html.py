"""The report as one HTML file that needs nothing else: no network, no font, and no script.

The report of a run that a search chose has one script, its own: it draws the front of that search.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edgeprune.records.run import Run, TensorRecord
from edgeprune.records.search import RECORD, SearchRecord
from edgeprune.report import charts, figures, sampling, tables, wording
from edgeprune.report.distribution import distribution
from edgeprune.report.front import front
from edgeprune.report.operation_times import operation_times
from edgeprune.report.search_page import explorable
from edgeprune.report.tradeoff import tradeoff

SIGNS: dict[figures.Key, str] = {
    "pass": "✓",
    "fail": "✗",
    "inconclusive": "?",
    "unavailable": "!",
    "open": "–",
}


def of(folder: Path) -> str:
    """The report of a run folder, with the front of the search that chose it, if one did.

    Raises:
        UsageError: there is no run, or it is damaged.
    """
    place = folder if folder.is_dir() else folder.parent
    return render(Run.load(folder), SearchRecord.load(place) if (place / RECORD).is_file() else None)


def render(run: Run, search: SearchRecord | None = None) -> str:
    """The whole report: at most 2 MB, the same bytes for the same run.

    Args:
        search: the search that chose this run.

    Returns:
        An HTML document. Every name of the run is escaped; what the run does not know is left out.
    """
    state = figures.standing(run)
    used = {t.label for t in run.terms} | {c.label for c in run.certificates}
    return filled(
        "report.html.j2",
        title=wording.clean(run.model.name) or "unnamed model",
        factory=wording.clean(run.model.factory),
        version=wording.clean(run.environment.edgeprune),
        inputs=wording.several(_tensor(t) for t in run.model.inputs),
        outputs=wording.several(_tensor(t) for t in run.model.outputs),
        weights=wording.clean(run.model.weights_sha256),
        notes=wording.several(run.model.notes),
        standing=state,
        sign=SIGNS[state.key],
        key_figures=figures.key_figures(run),
        sampling=sampling.sentences(run),
        warnings=wording.several(run.warnings),
        plan=run.plan,
        shrunk_reason=wording.clean(run.plan.shrunk_reason) if run.plan else "",
        method=wording.clean(run.plan.method) if run.plan else "",
        charts={
            "widths": charts.widths(run),
            "chain": charts.error_chain(run),
            "distribution": distribution(run),
            "front": front(run),
            "tradeoff": tradeoff(run),
            "latency": charts.latency(run),
        },
        operations=operation_times(run),
        tables=_tables(run),
        labels=[(label, meaning) for label, meaning in wording.LABELS.items() if label in used],
        unreached=wording.several(
            f"{v.target} was not reached: {v.reason or 'no reason was recorded'}"
            for v in run.validations
            if not v.reached
        ),
        command=figures.command(run),
        files_read=figures.files_read(run),
        seed=run.environment.seed,
        search=None if search is None else {"chosen": search.chosen, **explorable(search)},
    )


def filled(template: str, **content: Any) -> str:
    """A template of this folder with its content; every text is escaped."""
    room = files("edgeprune.report")
    names = ("report.html.j2", "comparison.html.j2", "macros.html.j2", "report.css")
    texts = {name: room.joinpath(name).read_text(encoding="utf-8") for name in names}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(css=Markup(texts["report.css"]), **content)


def _tables(run: Run) -> dict[str, tables.Table | None]:
    return {
        "checks": tables.checks(run),
        "pruned": tables.pruned_groups(run),
        "pinned": tables.pinned_groups(run),
        "chain": tables.chain(run),
        "certificates": tables.certificates(run),
        "drift": tables.drift(run),
        "latency": tables.latency(run),
        "placement": tables.placement(run),
        "costs": tables.costs(run),
        "artifacts": tables.artifacts(run),
        "settings": tables.settings(run),
        "environment": tables.environment(run),
    }


def _tensor(tensor: TensorRecord) -> str:
    sizes = " × ".join("batch" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype} ({sizes})"
