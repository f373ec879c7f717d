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
    parts += [_covered(known), _prunable(known)]
    told = [figures["ONNX difference"] for figures in known.values() if "ONNX difference" in figures]
    if told:
        parts.append(
            f"Exported and run on onnxruntime: {len(told)} nets, largest relative difference {max(told):.0e}."
        )
    return " ".join(parts)


def _covered(known: dict[tuple[str, str], dict[str, Any]]) -> str:
    """How many of timm's architecture modules have a net that was tried, and whether each was exact."""
    lines = Path(__file__).with_name("zoo_timm.txt").read_text(encoding="utf-8").splitlines()
    modules = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    tried = {m: [known[("timm", n)] for n in nets if ("timm", n) in known] for m, nets in modules.items()}
    exact = [m for m, of in tried.items() if of and all("failure" not in figures for figures in of)]
    wrong = sorted(m for m, of in tried.items() if of and m not in exact)
    untried = sorted(m for m, of in tried.items() if not of)
    said = f"Of timm's {len(modules)} architecture modules {len(exact)} have all their tried nets exact"
    said += f", not exact: {', '.join(wrong)}" if wrong else ""
    return said + (f"; not tried: {', '.join(untried)}." if untried else ".")


ENOUGH = 0.8
"""Share of the parameters outside normalised axes and vocabularies that shall be prunable."""


def _prunable(known: dict[tuple[str, str], dict[str, Any]]) -> str:
    """How many nets are prunable enough outside of what they normalise over, and which are not."""
    shares = {
        net: figures["prunable"] / (1 - figures["by nature"])
        for (_, net), figures in known.items()
        if "prunable" in figures and figures["by nature"] < 0.995
    }
    less = [f"{net} ({100 * share:.0f} %)" for net, share in sorted(shares.items()) if share < ENOUGH]
    fixed = sorted(net for (_, net), of in known.items() if of.get("by nature", 0) >= 0.995)
    said = (
        f"At least {100 * ENOUGH:.0f} % of the parameters outside normalised axes, vocabularies and outputs "
    )
    said += f"are prunable in {len(shares) - len(less)} of {len(shares)} nets"
    said += f"; less in {', '.join(less)}" if less else ""
    return said + (f"; wholly normalised over: {', '.join(fixed)}." if fixed else ".")


if __name__ == "__main__":
    main()
