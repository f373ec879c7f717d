"""The plan of the house, read from the source: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgeprune"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = ("ops", "coresets", "observation", "bounds", "runtimes", "report")
ALLOWED_ROOMS = {"observation": {"coresets"}}
"""Rooms that may import another room."""

LINES, FUNCTION_LINES = 400, 60
STANDS_ALONE = ("edgeprune.runtimes.agent", "edgeprune.runtimes.doorman")
"""Programs that run on a device, without edgeprune: they speak through their output."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = {module_of(path): path for path in FILES}


def imported(node: ast.stmt) -> Iterator[str]:
    """The modules that a statement imports; a name that is a module of ours is told from one in it."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else node.module


@cache
def imports(path: Path) -> frozenset[str]:
    """All modules that a file imports anywhere, but for the eyes of a type checker."""
    skipped = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    return frozenset(
        name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped
        for name in imported(node)
    )


@cache
def at_once(path: Path) -> frozenset[str]:
    """The modules that importing a file imports: not those inside functions or for type checkers."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(tree(path).body)
    while todo:
        node = todo.pop()
        found.update(imported(node))
        if isinstance(node, ast.ClassDef | ast.Try):
            todo.extend(node.body)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            todo.extend([*node.body, *node.orelse])
    return frozenset(found)


def reached(module: str) -> frozenset[str]:
    """Everything that importing a module imports, ours and others'."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        parts = name.split(".")
        todo.extend(".".join(parts[:k]) for k in range(1, len(parts)))  # packages run their __init__
        if name in MODULES:
            todo.extend(at_once(MODULES[name]))
    return frozenset(found)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if inside(name, "edgeprune")}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and f"edgeprune.{parts[1]}" in MODULES else ""


FLOORS = ("cli", "search", "line", "stages", "between", "rooms", "shared")
"""From the top: the command line, searches, what puts stages together, the stages, what several of them make of
one room, the rooms, and what all share."""


@cache
def floor_of(module: str) -> str:
    """Where a module stands: by its folder, or else above all that it imports."""
    if module in ("edgeprune", "edgeprune.__main__") or inside(module, "edgeprune.cli"):
        return "cli"
    if inside(module, "edgeprune.search"):
        return "search"
    if inside(module, "edgeprune.stages"):
        return "stages"
    if room_of(module) in ROOMS:
        return "rooms"
    below = {floor_of(name) for name in ours(MODULES[module]) - {module, "edgeprune"}}
    if below & {"line", "stages"}:
        return "line"
    return "between" if below & {"between", "rooms"} else "shared"


FOLDERS = {
    "line": "line",
    "commands": "line",
    "certificates": "between",
    "widths": "between",
    "graph": "shared",
    "records": "shared",
    "inputs": "shared",
    "domains": "shared",
    "functions": "shared",
    "verdict": "shared",
}
"""Folders that are neither a room nor the stages, and the floor that all in them stand on."""


def test_a_folder_stands_on_one_floor() -> None:
    floors = {
        module: floor_of(module)
        for module, path in MODULES.items()
        if room_of(module) in FOLDERS and path.name != "__init__.py"
    }
    assert {m: floor for m, floor in floors.items() if floor != FOLDERS[room_of(m)]} == {}


def test_few_files_stand_outside_a_folder() -> None:
    outside = sorted(path.stem for path in PACKAGE.glob("*.py"))
    assert len(outside) <= 16, outside


def test_imports_point_one_way() -> None:
    """`cli → pipeline → stages → rooms → what all share → errors`."""
    above = {
        module: sorted(
            name for name in ours(path) if FLOORS.index(floor_of(name)) < FLOORS.index(floor_of(module))
        )
        for module, path in MODULES.items()
    }
    assert {module: found for module, found in above.items() if found} == {}
    floors = {
        name: floor_of(f"edgeprune.{name}") for name in ("pipeline", "graph", "records", "config", "errors")
    }
    assert floors == {"pipeline": "line", **dict.fromkeys(("graph", "records", "config", "errors"), "shared")}


def test_errors_import_nothing_of_ours() -> None:
    assert ours(PACKAGE / "errors.py") == set()


def test_stages_never_import_each_other() -> None:
    stages = {module: path for module, path in MODULES.items() if inside(module, "edgeprune.stages")}
    others = {
        m: sorted(n for n in ours(path) if inside(n, "edgeprune.stages") and n != m)
        for m, path in stages.items()
    }
    assert {module: found for module, found in others.items() if found} == {}


def test_rooms_never_import_each_other() -> None:
    found = {}
    for module, path in MODULES.items():
        room = room_of(module)
        if room in ROOMS:
            others = {room_of(name) for name in ours(path)} & set(ROOMS) - {room} - ALLOWED_ROOMS.get(
                room, set()
            )
            found[module] = sorted(others)
    assert {module: others for module, others in found.items() if others} == {}


LIGHT_PARTS = ("objectives", "front", "space", "store", "lease", "place")
"""Parts of a search that decide without the libraries that do the work."""
EXTRA = {
    "optuna": {"edgeprune.search.study", "edgeprune.search.storages"},
    "distributed": {"edgeprune.search.cluster"},
    "dask": set(),
    "psycopg": set(),
    "sqlalchemy": set(),
}
"""What `edgeprune[search]` brings, and the files that know each."""


def test_only_the_command_line_knows_of_searches() -> None:
    knowing = {m for m, path in MODULES.items() if any(inside(n, "edgeprune.search") for n in ours(path))}
    assert {floor_of(module) for module in knowing} <= {"cli", "search"}


def test_what_a_search_decides_needs_none_of_what_does_the_work() -> None:
    heavy = {
        part: sorted(
            n
            for n in reached(f"edgeprune.search.{part}")
            for top in (*EXTRA, "torch", "onnx", "onnxruntime")
            if inside(n, top)
        )
        for part in LIGHT_PARTS
    }
    assert {part: names for part, names in heavy.items() if names} == {}


def test_each_library_of_the_extra_is_known_where_it_is_used() -> None:
    for library, files in EXTRA.items():
        knowing = {m for m, path in MODULES.items() if any(inside(n, library) for n in imports(path))}
        assert knowing == files, library


def test_without_the_extra_everything_else_can_be_imported() -> None:
    asked = {
        module: sorted(n for n in at_once(path) for library in EXTRA if inside(n, library))
        for module, path in MODULES.items()
        if not inside(module, "edgeprune.search")
    }
    assert {module: names for module, names in asked.items() if names} == {}


def test_nothing_is_imported_in_a_circle() -> None:
    graph = {name: {m for m in at_once(path) if m in MODULES and m != name} for name, path in MODULES.items()}
    graph = {name: {m for m in found if not inside(name, m)} for name, found in graph.items()}
    while free := [name for name, found in graph.items() if not found & graph.keys()]:
        for name in free:
            del graph[name]
    assert sorted(graph) == []


def test_only_the_command_line_parses_prints_and_exits() -> None:
    found = {}
    for module, path in MODULES.items():
        if floor_of(module) == "cli" or any(inside(module, program) for program in STANDS_ALONE):
            continue
        nodes = list(ast.walk(tree(path)))
        spoken = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        raised = {
            ast.unparse(node.exc).partition("(")[0]
            for node in nodes
            if isinstance(node, ast.Raise) and node.exc
        }
        found[module] = sorted(
            {name for name in imports(path) if inside(name, "click")}
            | spoken & {"print", "input", "exit", "quit", "sys.exit", "os._exit"}
            | raised & {"SystemExit"}
        )
    assert {module: names for module, names in found.items() if names} == {}


QUICK = (
    "edgeprune",
    "edgeprune.records.run",
    "edgeprune.verdict.limits",
    "edgeprune.stages.gate",
    "edgeprune.config",
    "edgeprune.cli",
)
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "scipy")


def test_what_reads_records_does_without_the_heavy_libraries() -> None:
    light = [*QUICK, *(name for name in MODULES if inside(name, "edgeprune.report"))]
    heavy = {
        module: sorted(n for n in reached(module) for top in HEAVY if inside(n, top)) for module in light
    }
    assert {module: names for module, names in heavy.items() if names} == {}


@pytest.mark.parametrize("module", QUICK)
def test_what_reads_records_starts_in_a_blink(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_runs_on_a_device_imports_nothing_but_itself() -> None:
    for program in STANDS_ALONE:
        for module, path in MODULES.items():
            if inside(module, program):
                assert {name for name in ours(path) if not inside(name, program)} == set()
                assert not {name for name in imports(path) if inside(name, "torch")}


def test_files_are_short() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > LINES} == {}


def test_functions_fit_on_a_screen() -> None:
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


def test_files_are_named_after_their_job() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler", "base"}
    assert [module for module in MODULES if empty & set(module.rpartition(".")[2].split("_"))] == []


def test_every_file_begins_with_what_it_is_for() -> None:
    assert [module for module, path in MODULES.items() if not ast.get_docstring(tree(path))] == []


def test_there_is_no_state_that_a_function_could_change() -> None:
    assert [
        m for m, path in MODULES.items() if any(isinstance(n, ast.Global) for n in ast.walk(tree(path)))
    ] == []


def test_dataclasses_are_slotted() -> None:
    loose = [
        f"{module}.{node.name}"
        for module, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for decorator in map(ast.unparse, node.decorator_list)
        if "dataclass" in decorator and "slots=True" not in decorator
    ]
    assert loose == []


def test_a_room_names_every_file_in_it() -> None:
    unnamed = {}
    for room in (*ROOMS, *FOLDERS, "stages", "search"):
        table = (PACKAGE / room / "__init__.py").read_text(encoding="utf-8")
        files = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
        unnamed[room] = sorted(stem for stem in files if stem not in table)
    assert {room: stems for room, stems in unnamed.items() if stems} == {}
