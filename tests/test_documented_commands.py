"""Every command of the README and the documents is really run, as it stands there.

The folder they run in holds what they name: models, weights, samples, targets, runs, keys. Targets are
measured for a moment only, and what lies in `edgeprune.toml` leaves out what a command does not ask for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from terminal import Terminal
from test_docs import WRITTEN

from edgeprune import profiles
from edgeprune.profiles import Target
from edgeprune.runtimes.local import Local

pytestmark = pytest.mark.slow

LONG = ("edgeprune search", "edgeprune merge", "edgeprune estimate")
"""Commands that take minutes: tests of their own run them, here they are parsed (`test_docs.py`)."""

COMMANDS = [
    line
    for line in dict.fromkeys(line for _, line in WRITTEN)
    if not line.startswith(LONG) and "arm64-emulated" not in line and "quick.toml" not in line
]
UNDECIDED = {0, 1, 5, 6}
"""What a command may exit with that judges or reaches for something: a limit of an example need not hold."""

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.wide, self.narrow, self.head = nn.Linear({width}, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        if x.dim() == 4:
            return self.head(torch.relu(self.narrow(torch.relu(self.conv(x)).mean((2, 3)))))
        return self.head(torch.relu(self.narrow(torch.relu(self.wide(x)))))


def build():
    torch.manual_seed(0)
    return Net().eval()
"""
QUICK = """
[measure]
launches_min = 2
launches_max = 2
pairs = 8
warm_up = 2
budget_s = 2.0
"""


@pytest.fixture(scope="module")
def quick_targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped targets, measured for a moment."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(profiles.shipped_folder("targets"), folder / "targets")
    for name in ("cpu", "cpu-1t"):
        path = folder / "targets" / f"{name}.toml"
        path.write_text(path.read_text(encoding="utf-8").partition("[measure]")[0] + QUICK, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documents' commands name."""
    folder = tmp_path_factory.mktemp("documented")
    random = np.random.default_rng(0)
    with chdir(folder):
        for name, count, size in (("small.npz", 400, 8), ("large.npz", 4, 224)):
            fit, holdout = random.random((2, count, 3, size, size)).astype(np.float32)
            np.savez(name, fit=fit, holdout=holdout)
        for name in ("board", "phone"):
            Path(f"{name}.toml").write_text(f'extends = "cpu-1t"\nname = "{name}"\n{QUICK}')
        Path("metrics.py").write_text(
            "def wer(pruned, original, labels):\n    return float(abs(pruned - original).mean())\n"
        )
        Path("edgeprune.template").write_text(
            'model = "model.py:build"\nCALIBRATIONkeep = 0.5\nmultiple = 1\nlatency = false\n'
            "certify = false\nsimplify = false\nattack_steps = 2\nattack_restarts = 1\n"
        )
        for command in (
            "openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
            "openssl ec -in private.pem -pubout -out public.pem",
        ):
            subprocess.run(shlex.split(command), check=True, capture_output=True)
    return folder


_READY: dict[Path, list[str]] = {}


@pytest.fixture
def terminal(
    place: Path, quick_targets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Terminal]:
    monkeypatch.chdir(place)
    shipped = profiles.shipped_folder
    monkeypatch.setattr(
        profiles, "shipped_folder", lambda kind: quick_targets / kind if kind == "targets" else shipped(kind)
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "job.md")
    ready = Terminal(monkeypatch, capsys)
    if place not in _READY:
        _settings("")
        _model("")
        made = ready("run", "-o", "runs/kept")
        assert made.code == 0, made.err
        exported = ready("export", "model.py:build", "--input", "1x3x8x8", "-o", "model.onnx")
        assert exported.code == 0, exported.err
        for name in ("original.onnx", "pruned.onnx"):
            shutil.copy(Path("runs/kept") / name, name)
        _READY[place] = []
    return ready


def _model(line: str) -> None:
    """The model that a command means: what it takes, its file, its weights."""
    width = 784 if re.search("mnist|small.toml|1x784", line) else 8
    text = MODEL.replace("{width}", str(width))
    Path("model.py").write_text(text)
    names: dict[str, object] = {}
    exec(compile(text, "model.py", "exec"), names)
    torch.manual_seed(0)
    net: torch.nn.Module = names["build"]()  # type: ignore[operator]
    save_file(net.state_dict(), "w.safetensors")


def _settings(line: str) -> None:
    """The file that lies there; it names samples unless the command says what the inputs are."""
    set_ = "" if "--input" in line else 'calibration = "data.npz"\n'
    Path("edgeprune.toml").write_text(Path("edgeprune.template").read_text().replace("CALIBRATION", set_))
    shutil.copy("large.npz" if "--input" in line else "small.npz", "data.npz")


def _prepare(line: str, words: list[str]) -> None:
    """Put what a command reads, and take away what it writes."""
    _model(line)
    _settings(line)
    shutil.rmtree("runs/Net", ignore_errors=True)
    for place in re.findall(r"runs/\w+", line):
        writes = f"-o {place}" in line and words[1] in ("run", "prune", "demo")
        shutil.rmtree(place, ignore_errors=True)
        if not writes:
            shutil.copytree("runs/kept", place)
    if "-o repro" in line or "-o phone" in line:
        shutil.rmtree(words[words.index("-o") + 1], ignore_errors=True)
    if "verify" in words and "--key" in words:
        Path(f"{words[2]}/model.sig").unlink(missing_ok=True)
    Path("calibration").mkdir(exist_ok=True)


_run = Local.run


def _steady(self: Local, job: Path, target: Target, limit_s: float) -> Path:
    """A device whose time is in proportion to a file's weights, so that a budget of time can be kept to.

    Outputs and traces are the real ones; only the clock is another.
    """
    content = json.loads((job / "job.json").read_text(encoding="utf-8"))
    kind = content["kind"]
    if kind not in ("times", "pairs", "layers"):
        return _run(self, job, target, limit_s)
    ms = {name: _weights(job / path) / 40 for name, path in content["models"].items()}
    answer = {
        "kind": kind, "status": "ok", "files": content["files"], "environment": {"onnxruntime": "steady"},
        "placement": {target.runtime.provider: 1}, "load_ms": 1.0, "first_ms": 1.0, "peak_mb": 10.0,
        "warm_up": 2, "settled": True,
    }  # fmt: skip
    if kind == "layers":
        answer["ms"] = ms
    elif kind == "times":
        answer["steady"] = [ms["model"]] * 3
    else:
        answer["pairs"] = [[ms["original"], ms["pruned"]]] * 3
        answer["control"] = [[ms["original"], ms["original"]]] * 3
    (job / "result.json").write_text(json.dumps(answer), encoding="utf-8")
    return job


def _weights(path: Path) -> int:
    return sum(int(np.prod(item.dims)) for item in onnx.load(path).graph.initializer)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_runs(
    line: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [os.path.expandvars(word) for word in shlex.split(line)]
    _prepare(line, words)
    if words[1] == "init":
        Path("edgeprune.toml").unlink()
    if (
        "calibration/small.toml" in words
        and words[1] == "run"
        and not Path("calibration/small.toml").exists()
    ):
        made = terminal("calibrate", "mnist", "--size", "200", "-o", "calibration/small.toml")
        assert made.code == 0, made.err
    if words[1] == "verify" and "--key" in words:
        assert terminal("sign", words[2], "--key", "private.pem").code == 0
    if "--speedup" in words or "--latency-ms" in words:
        monkeypatch.setattr(Local, "run", _steady)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # its times are no real target's
    ended = terminal(*words[1:])
    free = words[1] in ("gate", "targets", "lint", "validate", "package") or "--limit" in words
    assert ended.code in (UNDECIDED if free else {0}), ended.err
    assert "Traceback" not in ended.err
    assert not list(Path().rglob("*.part"))
    if line == "edgeprune demo":
        assert set(_rows(_shown())) <= set(_rows(ended.out))


def _shown() -> str:
    """What the README says that the demo says."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return text.partition("<!-- output: demo -->\n```\n")[2].partition("```")[0]


def _rows(text: str) -> list[str]:
    """Of every line what it is about: its beginning, without figures, which differ from machine to machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [re.split(r"\s{2,}|[─╭╰]", line)[0] for line in lines if not line.startswith("!")]
