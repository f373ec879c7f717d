"""What is told before anything is run: expected errors that come true, and sample sizes that are the least."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from edgeprune.bounds import a_priori
from edgeprune.cli import main
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()

def bent():
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 3)).eval()
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "foreseen.py").write_text(MODEL)
    return f"{tmp_path / 'foreseen.py'}:build"


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments, "--input", "1x6"])


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.Hardtanh(-0.5, 2.0), nn.Mish(), nn.Sigmoid(), nn.SELU()]
)
def test_the_error_foreseen_from_weights_alone_is_what_isotropic_inputs_measure(
    activation: nn.Module,
) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 16, bias=False), activation, nn.Linear(16, 4)).eval()
    coupling = couple(trace(net, (torch.randn(2, 6),)))
    found = choose(coupling, {"0": 6}, "gram", None, seed=0, manner=Manner("none"))
    x = torch.randn(100_000, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(x) - net[2].bias
        small = shrink(net, coupling, found, (x[:2],)).module
        measured = float(((small(x) - net(x)) ** 2).sum() / (expected**2).sum())
    foreseen = found.selections["0"].error
    assert foreseen == pytest.approx(measured, rel=0.04)
    assert measured > 1e-4


def test_the_command_tells_errors_and_writes_nothing(model: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = plan(model, "--moments", "none", "--keep", "0.5", "--multiple", "1", "--json")
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert (told["before"], told["after"]) == (12, 6)
    assert 0 < told["error"] < 1
    shown = plan(model, "--moments", "none", "--keep", "0.5", "--multiple", "1")
    assert f"{100 * told['error'] ** 0.5:.3g} %" in shown.output
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)] == before


def test_the_sample_size_is_the_least_that_keeps_the_promise(model: str) -> None:
    result = plan(model, "--domain=-1,1", "--epsilon", "0.5", "--delta", "0.01", "--json")
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert told["radius"] == pytest.approx(np.sqrt(6))
    t, draws = told["spread"], told["draws"]
    assert a_priori.explicit(t, draws, 3, 0.01) <= 0.5 < a_priori.explicit(t, draws - 1, 3, 0.01)
    paper = told["paper_draws"]
    assert a_priori.paper_form(t, paper, 7, 0.01) <= 0.5 < a_priori.paper_form(t, paper - 1, 7, 0.01)
    assert "more of them than units" in plan(model, "--domain=-1,1", "--epsilon", "0.5").output


def test_where_an_assumption_fails_it_is_said(model: str) -> None:
    for arguments, words in (
        ((model, "--epsilon", "0.5"), "needs a bounded domain"),
        ((model.replace(":build", ":bent"), "--domain=-1,1", "--epsilon", "0.5"), "not gelu"),
    ):
        result = plan(*arguments)
        assert result.exception is not None
        assert words in str(result.exception)
        assert getattr(result.exception, "exit_code", 0) == 3
    assert plan(model, "--domain=-1,1", "--epsilon", "-1").exit_code == 2
    assert plan(model, "--domain=-1,1", "--epsilon", "1", "--delta", "1").exit_code == 2
