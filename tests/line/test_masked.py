"""The middle of the chain: the masked twin is the shrunk net, and what contradicts a promise ends the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from nets import seeded
from plans import coupled, plan_of, random_keep
from terminal import SMALL, Terminal, small_run
from torch import nn

from edgeprune.line.masked import masked_twin
from edgeprune.records.run import Run
from edgeprune.stages.shrink import shrink


@pytest.fixture
def terminal(monkeypatch, capsys):
    return Terminal(monkeypatch, capsys)


NETS = {
    "φ(0) is not 0": (
        lambda: nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 7), nn.Softplus(), nn.Linear(7, 3)),
        (6,),
    ),
    "batch norm and pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(6 * 2 * 2, 3),
        ),
        (2, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_masked_twin_computes_what_the_shrunk_net_does(name: str) -> None:
    make, shape = NETS[name]
    model = seeded(make)
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), (x,))
    twin = masked_twin(model, shrunk.cuts, dict(shrunk.module.state_dict()))
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert {n: tuple(t.shape) for n, t in twin.state_dict().items()} == shapes
    weights = [t.flatten(1) for t in twin.state_dict().values() if t.dim() > 1]
    assert any(bool((t == 0).all(1).any()) for t in weights)
    with torch.no_grad():
        assert torch.allclose(twin(x), shrunk.module(x), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(twin(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "r"
    return small_run(folder, "--no-latency", "--masked-twin")


def test_the_twin_is_written_and_listed(finished: Path, terminal: Terminal) -> None:
    run = Run.load(finished)
    sizes = [tuple(t.dims) for t in onnx.load(finished / run.artifacts["masked"].path).graph.initializer]
    assert sorted(sizes) == sorted(
        tuple(t.dims) for t in onnx.load(finished / "original.onnx").graph.initializer
    )
    assert "masked.onnx" in (finished / "SHA256SUMS").read_text()
    assert terminal("verify", finished).code == 0


def test_every_term_says_whether_it_is_a_bound(finished: Path) -> None:
    terms = {t.name: t for t in Run.load(finished).terms}
    assert list(terms) == ["prune", "masking", "export", "simplify", "rounding"]
    for term in terms.values():
        assert (term.bound is None) == (term.label == "observed")
        assert term.observed is not None
        if term.bound is not None and term.name != "masking":
            assert term.observed <= term.bound
    assert terms["masking"].bound == 0
    assert "nothing is claimed" in terms["export"].assumptions[0]


def test_a_later_certify_measures_the_masking_again(finished: Path, terminal: Terminal) -> None:
    before = next(t for t in Run.load(finished).terms if t.name == "masking")
    assert terminal("certify", finished, "--domain", "linf:0.1@zero", "--budget", "1m").code == 0
    after = next(t for t in Run.load(finished).terms if t.name == "masking")
    assert before.n_inputs > 0
    assert after.n_inputs > 0
    assert after.observed is not None
    assert after.observed < 1e-12


def test_onnxsim_proves_that_masked_and_pruned_are_the_same(finished: Path) -> None:
    """Another tool's proof, with an SMT solver, of what is exact by construction here."""
    pytest.importorskip("z3")
    code = (
        "import json, sys, onnx, onnxsim.certify as c\n"
        "a, b = (onnx.load(p) for p in sys.argv[1:3])\n"
        "box = {a.graph.input[0].name: (-1.0, 1.0)}\n"
        "print(json.dumps(list(c.certify(a, b, box, total_timeout_ms=int(sys.argv[3])).outputs.values())))\n"
    )

    def proved(first: str, second: str, limit_ms: int = 300_000) -> list[str]:
        files = [str(finished / name) for name in (first, second)]
        done = subprocess.run(
            [sys.executable, "-c", code, *files, str(limit_ms)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found: list[str] = json.loads(done.stdout.splitlines()[-1])
        return found

    assert all(verdict.startswith("proved") for verdict in proved("masked.onnx", "pruned.onnx"))
    assert not any(verdict.startswith("proved") for verdict in proved("original.onnx", "pruned.onnx", 3000))


def test_outputs_that_break_the_rounding_bound_end_with_a_counterexample(
    finished: Path, terminal: Terminal, tmp_path: Path
) -> None:
    """What a target gave is changed behind the run by a thousandth: the rounding model contradicts it."""
    import shutil

    folder = tmp_path / "r"
    shutil.copytree(finished, folder)
    kept = folder / "logs" / "outputs" / "cpu.npz"
    with np.load(kept) as stored:
        outputs = {name: stored[name].copy() for name in stored.files}
    next(iter(outputs.values()))[7, 0] += 1e-3
    np.savez(kept, **outputs)
    ended = terminal("certify", folder)
    assert ended.code == 4
    assert "the rounding model promises at most" in ended.err
    with np.load(folder / "counterexample.npz") as found:
        assert found["input0"].shape == (8,)


@pytest.mark.parametrize("direction", ["bottom-up", "top-down"])
def test_the_theorem_is_attacked_again_in_a_later_certify(
    direction: str, terminal: Terminal, tmp_path: Path
) -> None:
    """Weights that units were drawn by are kept with the run, so that the search beside the promise stays."""
    ended = terminal(
        *("run", f"{SMALL}:build", "--input", "1x8", "--domain", "-1,1", "--method", "sensitivity"),
        *(
            "--direction",
            direction,
            "--multiple",
            "1",
            "--no-latency",
            "--no-simplify",
            "--bound",
            "intervals",
        ),
        *("-o", tmp_path / "r"),
    )
    assert ended.code == 0, ended.err

    def promises() -> list[tuple[str, float | None, float | None]]:
        found = [
            c for c in Run.load(tmp_path / "r").certificates if c.scope == "layer" and c.bound is not None
        ]
        return [(c.name, c.bound, c.attacked) for c in found]

    before = promises()
    assert before
    assert any(attacked is not None for _, _, attacked in before)
    assert all(bound >= attacked for _, bound, attacked in before if bound and attacked is not None)
    assert terminal("certify", tmp_path / "r").code == 0
    assert promises() == before
