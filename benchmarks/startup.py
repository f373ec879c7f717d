"""How long the command line takes to answer: whole processes, and whether torch was loaded for it.

    python -m benchmarks.startup [--quick] [--json FILE] [--run RUN]

`edgeprune --help` and `edgeprune gate RUN` are started ten times each (three with `--quick`), in turns; the
figure is the median of their wall-clock times. Once more each is asked which modules it imported: torch must
not be among them, else the script exits with 1. Without `--run` a run of the demo is made first.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.errors import UsageError

REPEATS = 10
QUICK_REPEATS = 3
LIMIT_S = 300
HEAVY = ("torch", "onnx", "onnxruntime", "scipy", "matplotlib")
LAYOUT = by_figure


def command() -> Path:
    """The console script beside the running interpreter.

    Raises:
        UsageError: edgeprune is not installed there.
    """
    script = Path(sys.executable).parent / "edgeprune"
    if not script.is_file():
        raise UsageError(f"{script}: is missing; install edgeprune ('make test' does) and start again.")
    return script


def call(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a process to its end.

    Raises:
        UsageError: it was killed or refused its arguments (a gate that fails is an answer, too).
    """
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode not in (0, 1, 6):
        raise UsageError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done


def median_s(commands: Mapping[str, Sequence[str]], repeats: int) -> dict[str, float]:
    """Median wall-clock seconds of each command; they take turns, so that a busy moment meets all."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, arguments in commands.items():
            started = time.perf_counter()
            call(arguments)
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def imported(arguments: Sequence[str]) -> set[str]:
    """Names of the top-level packages that a console script imports."""
    told = call([sys.executable, "-X", "importtime", *arguments]).stderr
    return {name.split(".")[0] for name in re.findall(r"^import time:.*\|\s+(\S+)$", told, re.MULTILINE)}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--run", type=Path, help="a finished run's folder")
    chosen = parser.parse_args()
    script = str(command())
    with tempfile.TemporaryDirectory() as scratch:
        run = chosen.run or Path(scratch) / "run"
        if chosen.run is None:
            call([script, "demo", "--no-latency", "-o", str(run)])
        commands = {"edgeprune --help": [script, "--help"], "edgeprune gate RUN": [script, "gate", str(run)]}
        medians = median_s(commands, QUICK_REPEATS if chosen.quick else REPEATS)
        loaded = {name: sorted(imported(a) & set(HEAVY)) for name, a in commands.items()}
    rows = environment_rows()
    for name in commands:
        rows.append(Row(name, "", "", "median time", medians[name], "s", 0))
        rows.append(Row(name, "", "", "heavy packages imported", len(loaded[name]), "", 0))
    finish(rows, LAYOUT, chosen.json)
    slow = [f"{name} imports {', '.join(found)}" for name, found in loaded.items() if "torch" in found]
    if slow:
        sys.exit("; ".join(slow))


if __name__ == "__main__":
    main()
