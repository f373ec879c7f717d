"""Paste the tables of benchmarks/results into the documents, between their markers.

    python -m benchmarks.paste [--check]

In README.md, docs/**/*.md and benchmarks/README.md, what stands between `<!-- table: lenet -->` and
`<!-- end -->` is replaced by the table of benchmarks/results/lenet.json, with the machine and the versions it
was measured with. `--check` writes nothing and exits with 1 if a document is out of date.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import RESULTS, Layout, Row, Table, by_figure, by_ratio, by_size, load, sized
from benchmarks.search_tables import scaled, ways
from benchmarks.zoo_table import nets
from edgeprune.errors import UsageError
from edgeprune.files import write_text

ROOT = Path(__file__).resolve().parent.parent


def of_script(name: str) -> Layout:
    """The layout that a script has of its own; the script is imported when a table is asked for."""

    def layout(rows: Sequence[Row]) -> Table:
        found: Table = importlib.import_module(f"benchmarks.{name}").LAYOUT(rows)
        return found

    return layout


LAYOUTS: Mapping[str, Layout] = {
    "gate_noise": by_figure,
    "drift": by_figure,
    "latency": by_ratio,
    "speedup": by_figure,
    "lenet": by_size,
    "learned": by_size,
    "cnn": by_size,
    "vgg": by_size,
    "crepe": sized("same pitch", "relative output error"),
    "minilm": sized("mean cosine", "least cosine"),
    "startup": by_figure,
    "certificates": by_figure,
    "coverage": by_figure,
    "fuzz_certificates": by_figure,
    "sweep_kernels": of_script("sweep_kernels"),
    "minimax": by_figure,
    "data_coresets": of_script("data_coresets"),
    "layer_error": of_script("layer_error"),
    "gram_speed": by_figure,
    "zoo": nets,
    "pruning_speed": of_script("pruning_speed"),
    "search": ways,
    "scale": scaled,
}
EXCERPTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "lenet-excerpt": (
        "lenet",
        (
            "magnitude",
            "Torch-Pruning, Taylor",
            "sensitivity",
            "gram, no data",
            "gram, mean and covariance",
            "gram",
            "learned, 60 000 unlabelled",
            "scratch, 60 000 unlabelled",
        ),
    ),
    "cnn-excerpt": (
        "cnn",
        (
            "summed magnitude + BN re-estimated",
            "Torch-Pruning, FPGM + BN re-estimated",
            "gram, synthetic inputs",
            "gram",
            "learned, 10 000 unlabelled",
            "scratch, 10 000 unlabelled",
        ),
    ),
}
"""Some lines of a table, for a document that has no room for all: the table, and the methods in order."""
OPENING = re.compile(r"^<!-- table: .* -->$", re.MULTILINE)
BLOCK = re.compile(
    r"^(<!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE
)


def documents(root: Path) -> list[Path]:
    """The files that may hold tables."""
    found = [root / "README.md", root / "benchmarks" / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [path for path in found if path.is_file()]


def pasted(text: str, where: Path, results: Path) -> str:
    """The text with every table brought up to date.

    Raises:
        UsageError: a marker names no known table, has no end, or its figures are missing.
    """
    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise UsageError(f"{where}: a table's marker has no '<!-- end -->' behind it; add it.")

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if OPENING.search(match["body"]):
            raise UsageError(f"{where}: the table '{name}' has no '<!-- end -->' of its own; add it.")
        if name not in LAYOUTS and name not in EXCERPTS:
            known = ", ".join((*LAYOUTS, *EXCERPTS))
            raise UsageError(f"{where}: there is no table '{name}'; choose one of: {known}")
        return f"{match[1]}{_table(name, results).markdown()}\n"

    return BLOCK.sub(replace, text)


def _table(name: str, results: Path) -> Table:
    if name in LAYOUTS:
        return LAYOUTS[name](load(results / f"{name}.json"))
    whole, methods = EXCERPTS[name]
    rows = load(results / f"{whole}.json")
    kept = [row for method in methods for row in rows if row.method == method]
    return LAYOUTS[whole]([*(row for row in rows if not row.method), *kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if out of date")
    chosen = parser.parse_args()
    old = []
    for path in documents(ROOT):
        before = path.read_text(encoding="utf-8")
        after = pasted(before, path, RESULTS)
        if after != before:
            old.append(path.relative_to(ROOT))
            if not chosen.check:
                write_text(path, after)
    if chosen.check and old:
        sys.exit(f"out of date: {', '.join(map(str, old))}; run 'python -m benchmarks.paste'")
    for path in old:
        print(f"{path}: updated")


if __name__ == "__main__":
    main()
