"""Lints and verdict as SARIF 2.1.0, for GitHub code scanning and editors.

Sources: OASIS Static Analysis Results Interchange Format 2.1.0; GitHub, "SARIF support for code
scanning" (a location in a file is needed, and fingerprints that outlive a run).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from edgeprune.records.run import Run
from edgeprune.report import wording
from edgeprune.verdict.lints import RULES, Lint, Rule, lints

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(run: Run, folder: Path) -> str:
    """A run's lints as a SARIF log, each where it was caused: a limit in the file that sets it.

    Args:
        run: the run, judged.
        folder: where it lies, as the user named it.
    """
    return log(((found, *place(run, folder, found)) for found in lints(run)), run.environment.edgeprune)


def place(run: Run, folder: Path, found: Lint) -> tuple[Path, int]:
    """The file and the line that a lint of a run is shown at."""
    record = folder if folder.suffix == ".json" else folder / "run.json"
    if not found.rule.id.startswith("EP4"):
        return record, 1
    origin = next((s.origin for s in run.settings if s.name == "limits"), "")
    file = Path(origin.partition(" and ")[0])
    if file.suffix != ".toml":
        return record, 1
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return record, 1
    key = re.compile(rf"\s*{re.escape(re.split(r'[ :]', found.subject)[0])}\s*=")
    table = [n for n, line in enumerate(lines, 1) if line.strip().endswith("limits]")]
    named = [n for n, line in enumerate(lines, 1) if key.match(line)]
    return file, (named or table or [1])[0]


def log(found: Iterable[tuple[Lint, Path, int]], version: str) -> str:
    """Lints, each with its file and line, as a SARIF log."""
    every = tuple(found)
    used = sorted({item.rule.id for item, _, _ in every})
    results = [_result(item, path, line, used.index(item.rule.id)) for item, path, line in every]
    driver = {
        "name": "edgeprune",
        "semanticVersion": _semantic(version),
        "rules": [_rule(RULES[name]) for name in used],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _semantic(version: str) -> str:
    parts = [*version.split("+")[0].split("."), "0", "0", "0"][:3]
    return ".".join(part if part.isdigit() else "0" for part in parts)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.short},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} {rule.remedy}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(item: Lint, path: Path, line: int, index: int) -> dict[str, Any]:
    location = {
        "artifactLocation": {"uri": uri(path)},
        "region": {"startLine": line},
    }
    identity = f"{item.rule.id}\0{PurePath(path).name}\0{item.subject}"
    same = hashlib.sha256(identity.encode(errors="replace")).hexdigest()
    return {
        "ruleId": item.rule.id,
        "ruleIndex": index,
        "level": item.severity,
        "message": {"text": wording.clean(item.message, 1000)},
        "locations": [
            {
                "physicalLocation": location,
                "logicalLocations": [{"name": wording.clean(item.subject), "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"edgeprune/v1": same},
    }


def uri(path: Path) -> str:
    """A path as a URI reference: relative to the current folder where it lies in it."""
    absolute = path if path.is_absolute() else Path.cwd() / path
    try:
        return quote(absolute.relative_to(Path.cwd()).as_posix(), errors="surrogateescape")
    except ValueError:
        return absolute.as_uri()
