"""The zoo's table: rows of benchmarks/zoo.py → benchmarks/results/zoo.json, and its layout in the documents.

    python -m benchmarks.zoo_table RAW.json [RAW.json …]

Where several files know a net, the last one counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import ENVIRONMENT, RESULTS, Row, Table, environment_line, environment_rows, save

FAMILIES = ("torchvision", "timm", "transformers", "real")
FIGURES: tuple[tuple[str, str, str], ...] = (
    ("params", "parameters", ""),
    ("trace_s", "trace", "s"),
    ("label_s", "label", "s"),
    ("plan_s", "plan", "s"),
    ("shrink_s", "shrink", "s"),
    ("prunable", "prunable", ""),
    ("by_nature", "by nature", ""),
    ("params_left", "parameters left", ""),
    ("macs_left", "MACs left", ""),
    ("exactness", "difference to masked", ""),
    ("onnx_error", "ONNX difference", ""),
    ("kind", "shrunk", ""),
    ("error", "failure", ""),
    ("onnx_failed", "ONNX failure", ""),
)
"""Key of zoo.py, name of the figure, unit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("raw", nargs="+", type=Path, help="what zoo.py --json wrote")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in parser.parse_args().raw:
        for row in json.loads(path.read_text(encoding="utf-8")):
            found[(row["family"], row["model"])] = row
    rows = environment_rows()
    for family, model in sorted(found, key=lambda key: (FAMILIES.index(key[0]), key[1])):
        raw = found[(family, model)]
        for key, figure, unit in FIGURES:
            if raw.get(key) is not None:
                rows.append(Row(model, family, "0.5", figure, raw[key], unit, 0))
    save(RESULTS / "zoo.json", rows)


def nets(rows: Sequence[Row]) -> Table:
    """A line per net."""
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row.subject != ENVIRONMENT:
            known.setdefault((row.method, row.subject), {})[row.figure] = row.value
    head = (
        *("net", "family", "parameters, millions", "trace, s", "label, s", "plan, s", "shrink, s"),
        *("prunable, %", "outside norms, %", "parameters left", "MACs left", "difference to masked"),
        *("ONNX difference", "shrunk"),
    )
    lines = tuple(_line(family, net, of) for (family, net), of in known.items())
    return Table(head, lines, f"{_summary(known)} {environment_line(rows)}")


def _line(family: str, net: str, of: dict[str, Any]) -> tuple[str, ...]:
    def shown(figure: str, form: str, factor: float = 1.0) -> str:
        return format(of[figure] * factor, form) if figure in of else "–"

    outside = 1 - of["by nature"] if "by nature" in of else 0.0
    share = f"{100 * of['prunable'] / outside:.0f}" if outside > 0.005 else "–"
    return (
        net,
        family,
        shown("parameters", ".2f", 1e-6),
        *(shown(name, ".2f") for name in ("trace", "label", "plan", "shrink")),
        shown("prunable", ".0f", 100),
        share,
        *(shown(name, ".2f") for name in ("parameters left", "MACs left")),
        shown("difference to masked", ".0e"),
        "failed" if "ONNX failure" in of else shown("ONNX difference", ".0e"),
        f"failed: {of['failure']}" if "failure" in of else str(of.get("shrunk", "–")),
    )


def _summary(known: dict[tuple[str, str], dict[str, Any]]) -> str:
    parts = []
    for family in FAMILIES:
        of = [figures for (of_family, _), figures in known.items() if of_family == family]
        good = [figures for figures in of if "failure" not in figures]
        if good:
            modules = sum(figures["shrunk"] == "module" for figures in good)
            share = median(100 * figures["prunable"] for figures in good)
            parts.append(
                f"{family}: {len(good)} of {len(of)} exact, {modules} as the user's own module, median "
                f"{share:.0f} % of the parameters prunable."
            )
    told = [figures["ONNX difference"] for figures in known.values() if "ONNX difference" in figures]
    if told:
        parts.append(
            f"Exported and run on onnxruntime: {len(told)} nets, largest relative difference {max(told):.0e}."
        )
    return " ".join(parts)


if __name__ == "__main__":
    main()
