"""Every command, every bad input: one clear error, the right exit code, nothing written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import numpy as np
import pytest
import small
import torch
from safetensors.torch import save_file
from terminal import SMALL, Terminal

import edgeprune
from edgeprune.certificates.deterministic import Bounded
from edgeprune.cli import COMMANDS, main
from edgeprune.errors import StorageError
from edgeprune.records.run import Run


@pytest.fixture
def terminal(monkeypatch, capsys):
    return Terminal(monkeypatch, capsys)


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (640, 8)).astype(np.float32)
    np.savez(path, fit=x[:256], holdout=x[256:], holdout_labels=np.arange(384) % 3)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, samples) -> Path:
    """A run of the whole line, shared by the tests that only look at one."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    command = [sys.executable, "-m", "edgeprune", "run", f"{SMALL}:build", "--calibration", str(samples)]
    command += ["--domain", "-1,1", "--keep", "0.5", "--multiple", "1", "-o", str(folder), "--no-latency"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "report" in done.stdout
    told = [line for line in done.stderr.splitlines() if line.endswith(" …")]
    for step in ("tracing", "choosing", "exporting", "simplifying", "checking", "running on cpu", "writing"):
        assert any(line.startswith(step) for line in told), f"{step} is told in a log: {done.stderr}"
    assert "\x1b" not in done.stderr, "no colours, no bars in a log"
    return folder


def test_the_run_folder_holds_what_the_format_says(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "run.json",
        "original.onnx",
        "pruned.onnx",
        "pruned.safetensors",
        "plan.json",
        "report.html",
        "logs",
    }
    run = Run.load(finished)
    widths = {g.name: (g.before, g.after) for g in run.plan.groups}
    assert widths == {"0": (16, 8), "2": (12, 6), "4": (3, 3)}
    assert [t.name for t in run.terms] == ["prune", "masking", "export", "simplify", "rounding"]
    assert {c.scope for c in run.certificates} >= {"global", "distribution"}
    assert run.validations[0].placement == {
        "CPUExecutionProvider": run.validations[0].placement["CPUExecutionProvider"]
    }
    assert run.plan.params[0] == 8 * 16 + 16 + 16 * 12 + 12 + 12 * 3 + 3
    assert not list(finished.rglob("*.part"))


def test_every_certificate_lies_above_what_was_measured(finished: Path):
    for certificate in Run.load(finished).certificates:
        if certificate.bound is not None:
            for seen in (certificate.attacked, certificate.observed):
                assert seen is None or certificate.bound >= seen * (1 - 1e-12), certificate


def test_the_onnx_file_carries_provenance_and_no_paths(finished: Path):
    import onnx

    model = onnx.load(finished / "pruned.onnx")
    keys = {entry.key for entry in model.metadata_props}
    assert "edgeprune.source_weights_sha256" in keys
    content = (finished / "pruned.onnx").read_bytes()
    assert str(SMALL.parent).encode() not in content
    assert b"stack_trace" not in content


def test_load_rebuilds_the_shrunk_net_from_its_code(finished: Path):
    import onnxruntime

    net = edgeprune.load(small.build, finished)
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(finished / "pruned.onnx"))
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert net[0].out_features == 8
    np.testing.assert_allclose(net(x).detach().numpy(), expected, atol=1e-5)
    loss = net.train()(x).square().sum()
    loss.backward()  # it can be fine-tuned
    assert net[0].weight.grad is not None


def test_gate_passes_fails_and_reports(finished: Path, terminal: Terminal, tmp_path: Path):
    passed = terminal("gate", finished, "--limit", "observed_error=100", "--limit", "params_ratio=0.9")
    assert passed.code == 0
    assert "passed" in passed.out
    failed = terminal(
        "gate", finished, "--limit", "observed-error=1e-9", "--junit", tmp_path / "j.xml", "--json"
    )
    assert failed.code == 1
    assert json.loads(failed.out)["passed"] is False
    assert ET.parse(tmp_path / "j.xml").getroot().tag in ("testsuites", "testsuite")
    terminal("gate", finished, "--limit", "observed_error=1", "--summary", tmp_path / "s.md")
    assert "|" in (tmp_path / "s.md").read_text()


def test_a_limit_on_what_was_not_measured_does_not_pass(finished: Path, terminal: Terminal):
    assert terminal("gate", finished, "--limit", "latency_ratio=2").code == 5


def test_report_goes_where_it_is_told(finished: Path, terminal: Terminal, tmp_path: Path):
    assert terminal("report", finished, "-o", tmp_path / "page.html").code == 0
    assert "<html" in (tmp_path / "page.html").read_text()


def test_a_missing_target_is_told_and_never_passed(finished: Path, terminal: Terminal):
    from edgeprune.records.folder import MARK

    before = (finished / MARK).read_text()
    ended = terminal(
        "validate", finished, "--target", "cuda", "--limit", "observed_error=100", "--no-latency"
    )
    assert ended.code == 5
    assert "cuda" in ended.out
    record = Run.load(finished)
    assert {v.target: v.reached for v in record.validations} == {"cpu": True, "cuda": False}
    assert (finished / MARK).read_text() == before


def test_certify_again_with_other_odds(finished: Path, terminal: Terminal):
    ended = terminal("certify", finished, "--confidence", "0.9", "--domain", "-0.5,0.5")
    assert ended.code == 0
    record = Run.load(finished)
    assert {c.confidence for c in record.certificates if c.scope == "distribution"} == {0.9}


def test_inspect_lists_groups_and_reasons(terminal: Terminal):
    ended = terminal("inspect", f"{SMALL}:build", "--input", "1x8")
    assert ended.code == 0
    assert "an output of the model" in ended.out
    found = json.loads(terminal("inspect", f"{SMALL}:build", "--input", "1x8", "--json").out)
    assert [g["units"] for g in found["groups"]] == [16, 12]
    assert found["macs"] == 8 * 16 + 16 * 12 + 12 * 3


def test_training_mode_is_no_error_and_is_said(terminal: Terminal):
    ended = terminal("inspect", f"{SMALL}:training", "--input", "1x8")
    assert ended.code == 0
    assert "training mode" in ended.out


def test_export_and_simplify_alone(terminal: Terminal, tmp_path: Path):
    made = terminal("export", f"{SMALL}:build", "--input", "1x8", "-o", tmp_path / "m.onnx")
    assert made.code == 0, made.err
    simpler = terminal("simplify", tmp_path / "m.onnx", "-o", tmp_path / "s.onnx")
    assert simpler.code == 0, simpler.err
    assert (tmp_path / "s.onnx").stat().st_size > 0


def test_prune_alone_then_run_goes_on(terminal: Terminal, tmp_path: Path):
    model = (f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", tmp_path / "r")
    assert terminal("prune", *model).code == 0
    plan = (tmp_path / "r" / "plan.json").read_bytes()
    assert not (tmp_path / "r" / "pruned.onnx").exists()
    ended = terminal("run", *model)
    assert ended.code == 0
    assert (tmp_path / "r" / "plan.json").read_bytes() == plan
    assert "choosing" not in ended.err


def test_an_interrupt_keeps_what_is_finished(terminal: Terminal, tmp_path: Path, monkeypatch):
    import edgeprune.line.planning as planning
    import edgeprune.line.steps as steps

    model = (f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "--no-simplify", "--no-latency")
    monkeypatch.setattr(steps, "validate", _interrupted)
    stopped = terminal("run", *model, "-o", tmp_path / "r")
    assert stopped.code == 130
    assert set(Run.load(tmp_path / "r").seconds) == {"shrink", "export-original", "export-pruned"}
    monkeypatch.undo()
    monkeypatch.setattr(planning, "choose", _interrupted)  # must not be needed again
    assert Terminal(monkeypatch, terminal._capsys)("run", *model, "-o", tmp_path / "r").code == 0


def _interrupted(*_args, **_settings):
    raise KeyboardInterrupt


def test_an_interrupt_in_the_first_stage_leaves_nothing(terminal: Terminal, tmp_path: Path, monkeypatch):
    import edgeprune.line.planning as planning

    monkeypatch.setattr(planning, "choose", _interrupted)
    ended = terminal("run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", tmp_path / "r")
    assert ended.code == 130
    assert not (tmp_path / "r").exists()


def test_a_full_disk_is_one_error(terminal: Terminal, tmp_path: Path, monkeypatch):
    import edgeprune.line.steps as steps

    def full(path, _content):
        raise StorageError(f"{path}: cannot be written (No space left on device); nothing was left behind.")

    monkeypatch.setattr(steps, "write_bytes", full)
    ended = terminal("run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", tmp_path / "r")
    assert ended.code == 2
    assert "No space left" in ended.err
    assert not (tmp_path / "r" / "pruned.safetensors").exists()


def test_a_broken_certificate_aborts_and_keeps_the_input(terminal: Terminal, tmp_path: Path, monkeypatch):
    import edgeprune.stages.certify as stage

    monkeypatch.setattr(stage, "bounded", _far_too_small)
    ended = terminal(
        *(
            "run",
            f"{SMALL}:build",
            "--input",
            "1x8",
            "--method",
            "magnitude",
            "--no-simplify",
            "--no-latency",
        ),
        *("--domain", "-1,1", "-o", tmp_path / "r"),
    )
    assert ended.code == 4
    assert "promises at most" in ended.err
    with np.load(tmp_path / "r" / "counterexample.npz") as kept:
        assert kept["input0"].shape[-1] == 8


def _far_too_small(*_args, **_settings):
    return Bounded(1e-9)


def test_a_net_with_sizes_in_its_forward_becomes_a_graph(terminal: Terminal, tmp_path: Path):
    folder = tmp_path / "r"
    ended = terminal(
        *("run", f"{SMALL}:written", "--input", "1x8", "--method", "magnitude", "--multiple", "1"),
        *("--no-simplify", "--no-latency", "-o", folder),
    )
    assert ended.code == 0, ended.err
    plan = Run.load(folder).plan
    assert plan.shrunk == "graph"
    assert plan.shrunk_reason
    net = edgeprune.load(small.written, folder)
    assert net(torch.randn(2, 8)).shape == (2, 3)


BAD = {
    "no such factory": (["MODEL:bild"], 2, "did you mean 'build'"),
    "factory raises": (["MODEL:raises"], 2, "licence server"),
    "factory needs arguments": (["MODEL:needs"], 2, "width"),
    "no module": (["MODEL:no_module"], 2, "nn.Module"),
    "NaN weights": (["MODEL:undefined"], 2, "NaN"),
    "control flow": (["MODEL:branches"], 3, "torch.export"),
    "no such file": (["nowhere.py:build"], 2, "no such file"),
    "no colon": (["MODEL"], 2, ":factory"),
    "wrong input": (["MODEL:build", "--input", "1x9"], 2, "1×9"),
    "zero input": (["MODEL:build", "--input", "1x0"], 2, "size of 0"),
    "garbled input": (["MODEL:build", "--input", "a by b"], 2, "sizes"),
    "weights missing": (["MODEL:build", "--weights", "no.safetensors"], 2, "no such file"),
    "weights do not fit": (["MODEL:build", "--weights", "OTHER"], 2, "do not fit"),
    "pickle": (["MODEL:build", "--weights", "PICKLE"], 2, "--trust-pickle"),
    "calibration shape": (["MODEL:build", "--calibration", "mnist"], 2, "784"),
    "calibration empty": (["MODEL:build", "--calibration", "EMPTY"], 2, "samples"),
    "calibration missing": (["MODEL:build", "--calibration", "mnits"], 2, "did you mean 'mnist'"),
    "keep zero": (["MODEL:build", "--keep", "0"], 2, "above 0"),
    "keep above one": (["MODEL:build", "--keep", "1.01"], 2, "at most 1"),
    "two budgets": (["MODEL:build", "--keep", "0.5", "--macs", "0.5"], 2, "different budgets"),
    "method": (["MODEL:build", "--method", "garm"], 2, "did you mean 'gram'"),
    "no data": (["MODEL:build", "--method", "gram"], 2, "--calibration"),
    "target": (["MODEL:build", "--target", "cup"], 2, "did you mean 'cpu'"),
    "target twice": (["MODEL:build", "--target", "cpu", "--target", "cpu"], 2, "twice"),
    "exclude": (["MODEL:build", "--exclude", "layer9"], 2, "no such layer"),
    "limit": (["MODEL:build", "--limit", "latncy_ratio=1"], 2, "did you mean 'latency_ratio'"),
    "limit without number": (["MODEL:build", "--limit", "latency_ratio=fast"], 2, "not a number"),
    "config missing": (["MODEL:build", "--config", "no.toml"], 2, "no.toml"),
    "domain upside down": (["MODEL:build", "--domain", "1,0"], 2, "low must be below high"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_and_writes_nothing(case: str, terminal: Terminal, tmp_path: Path):
    arguments, code, words = BAD[case]
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 8), np.float32))
    names = {"OTHER": "other.safetensors", "PICKLE": "other.pt", "EMPTY": "empty.npz"}
    given = [str(tmp_path / names[a]) if a in names else a.replace("MODEL", str(SMALL)) for a in arguments]
    if "--input" not in given and "mnist" not in given:
        given += ["--input", "1x8"]
    if "--method" not in given:
        given += ["--method", "magnitude"]
    ended = terminal("run", *given, "-o", tmp_path / "r")
    assert ended.code == code, ended.err
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "r").exists()


def test_a_folder_that_is_no_run_is_left_alone(terminal: Terminal, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    ended = terminal("run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", tmp_path)
    assert ended.code == 2
    assert "not the folder of a run" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_model_is_told(terminal: Terminal, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no model is named" in terminal("run", "-o", tmp_path / "r").err


def test_settings_come_from_the_file(terminal: Terminal, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("edgeprune.toml").write_text(f'model = "{SMALL}:build"\nmethod = "magnitude"\ninput = ["1x8"]\n')
    assert terminal("inspect").code == 0
    Path("edgeprune.toml").write_text('methd = "gram"\n')
    ended = terminal("inspect")
    assert ended.code == 2
    assert "did you mean 'method'" in ended.err


def test_unknown_commands_are_met_with_a_suggestion(terminal: Terminal):
    ended = terminal("inspekt")
    assert ended.code == 2
    assert "did you mean 'inspect'" in ended.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str):
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command is not None
    assert command.help
    text = command.get_help(click.Context(command, info_name=name))
    assert re.search(rf"^ +edgeprune {name}\b", text, re.MULTILINE), (
        "the help has an example on a line of its own"
    )
    assert "\\b" not in text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("arguments", [["--help"], ["gate", "--help"], ["targets"], ["report", "--help"]])
def test_quick_commands_import_neither_torch_nor_onnx(arguments: list[str]):
    script = (
        f"import sys; sys.argv = ['edgeprune', *{arguments!r}]\n"
        "from edgeprune.cli import entry\n"
        "try:\n    entry()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_tells_versions(terminal: Terminal):
    ended = terminal("doctor")
    assert ended.code == 0
    assert torch.__version__.split("+")[0] in ended.out


def test_targets_show_and_check(terminal: Terminal):
    assert json.loads(terminal("targets", "cpu").out)["name"] == "cpu"
    checked = terminal("targets", "cuda", "--check", "--json")
    assert checked.code == 5
    assert json.loads(checked.out)[0]["check"]["reached"] is False
