"""`schema`, `config`, `init`, `lint`, `explain`: what people read before and after a run."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from report_runs import full_run
from terminal import SMALL, Terminal

from edgeprune.config import Settings, resolve
from edgeprune.profiles import shipped_folder
from edgeprune.records.run import to_json
from edgeprune.schema import described, settings_schema
from edgeprune.verdict.limits import Limits
from edgeprune.verdict.lints import RULES


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)


def valid(content: object) -> bool:
    return jsonschema.Draft202012Validator(settings_schema()).is_valid(content)


def test_the_schema_is_one_and_describes_every_setting() -> None:
    made = settings_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    for field in dataclasses.fields(Settings):
        assert made["properties"][field.name].get("description"), field.name
    for field in dataclasses.fields(Limits):
        assert described(Limits)[field.name]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('method = "gram"\ntarget = "cpu"\nkeep = 1', True),
        ('target = ["cpu", "cuda"]\n[limits]\nobserved_error = 0.5\nlevel = {observed_error = "warn"}', True),
        ('[[limits.metrics]]\nname = "wer"\nfunction = "m:f"\nat_most = 0.1', True),
        ("[limits.regression]\nall = 5\nlatency = 3", True),
        ('methd = "gram"', False),
        ("keep = 1.5", False),
        ("seed = 1.5", False),
        ("[limits]\nlatncy_ratio = 1", False),
        ('[[limits.metrics]]\nname = "wer"', False),
    ],
)
def test_schema_and_reader_agree(text: str, right: bool, tmp_path: Path) -> None:
    assert valid(tomllib.loads(text)) is right
    file = tmp_path / "edgeprune.toml"
    file.write_text(text)
    if right:
        resolve({}, file)
    else:
        with pytest.raises(Exception, match=r"edgeprune\.toml"):
            resolve({}, file)


def test_the_schemas_of_targets_and_runs_hold_for_real_ones(terminal: Terminal) -> None:
    target = json.loads(terminal("schema", "target").out)
    for path in shipped_folder("targets").glob("*.toml"):
        jsonschema.Draft202012Validator(target).validate(tomllib.loads(path.read_text()))
    run = json.loads(terminal("schema", "run").out)
    jsonschema.Draft202012Validator(run).validate(to_json(full_run()))


def test_config_shows_values_and_origins(terminal: Terminal) -> None:
    Path("edgeprune.toml").write_text("seed = 3\n[limits]\nobserved_error = 0.5\n")
    shown = terminal("config")
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines()}
    assert lines["seed"] == ["seed", "3", "edgeprune.toml"]
    assert lines["method"][-1] == "default"
    found = json.loads(terminal("config", "--json").out)
    assert found["seed"] == {"value": 3, "origin": "edgeprune.toml"}


def test_config_checks_several_files(terminal: Terminal) -> None:
    Path("a.toml").write_text("seed = 1\n")
    Path("b.toml").write_text("sed = 1\n")
    assert terminal("config", "--check", "a.toml").code == 0
    ended = terminal("config", "--check", "a.toml", "b.toml")
    assert ended.code == 2
    assert "did you mean 'seed'" in ended.err
    assert terminal("config", "a.toml", "b.toml").code == 2


def test_init_writes_what_run_reads(terminal: Terminal) -> None:
    np.savez("data.npz", x=np.random.default_rng(0).random((8, 8), np.float32))
    ended = terminal("init", f"{SMALL}:build", "--input", "1x8", "--calibration", "data.npz")
    assert ended.code == 0, ended.err
    text = Path("edgeprune.toml").read_text()
    assert "#   0: 16 units" in text
    assert "an output of the model" in text
    settings = resolve({}).settings
    assert (settings.model, settings.input, settings.method) == (f"{SMALL}:build", ("1x8",), "gram")
    assert valid(tomllib.loads(text))
    uncommented = "\n".join(
        line[2:]
        if line.startswith(("# observed", "# top1", "# latency", "# compression", "# level", "# domain"))
        else line
        for line in text.splitlines()
    )
    assert valid(tomllib.loads(uncommented))
    assert terminal("init", f"{SMALL}:build", "--input", "1x8").code == 2
    assert terminal("init", f"{SMALL}:build", "--input", "1x8", "--force").code == 0
    assert resolve({}).settings.method == "sensitivity"


def test_explain_knows_every_rule(terminal: Terminal) -> None:
    listed = terminal("explain").out
    for name, rule in RULES.items():
        assert name in listed
        assert rule.remedy in terminal("explain", name.lower()).out
    assert terminal("explain", "slower-than-the-original").code == 0
    ended = terminal("explain", "slower-than-original")
    assert ended.code == 2
    assert "did you mean 'slower-than-the-original'" in ended.err
    assert "lists them all" in terminal("explain", "EP999").err


def test_lint_reads_runs_and_files(terminal: Terminal) -> None:
    full_run().save(Path())
    ended = terminal("lint", ".", "--sarif", "x.sarif", "--json")
    assert ended.code == 1
    assert {"EP401", "EP201"} <= {row["rule"] for row in json.loads(ended.out)}
    assert json.loads(Path("x.sarif").read_text())["runs"]


def test_lint_finds_what_is_wrong_with_a_file(terminal: Terminal) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.array([[np.nan, 1.0]], np.float64)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], doc_string='File "/home/alice/secret/model.py"')
    odd = helper.make_node("Odd", ["y"], ["z"], domain="acme")
    graph = helper.make_graph(
        [node, odd],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1, 1])],
        [helper.make_tensor_value_info("z", TensorProto.DOUBLE, [1, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), "bad.onnx")
    ended = terminal("lint", "bad.onnx", "--json")
    assert ended.code == 1
    assert {row["rule"] for row in json.loads(ended.out)} == {"EP502", "EP503", "EP505", "EP506", "EP507"}
    model = onnx.load("bad.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    Path("out.onnx").write_bytes(model.SerializeToString())
    assert "outside its folder" in terminal("lint", "out.onnx").out


def test_quiet_and_verbose_may_stand_behind_the_command(terminal: Terminal) -> None:
    full_run().save(Path())
    for arguments in (["-q", "gate", "."], ["gate", ".", "-q"], ["gate", ".", "--verbose"]):
        assert terminal(*arguments, "--limit", "params_ratio=1").code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(
    shell: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.cli import COMMANDS, main

    words = {"COMP_WORDS": "edgeprune ", "COMP_CWORD": "" if shell == "fish" else "1"}
    from click.shell_completion import get_completion_class

    for name, value in words.items():
        monkeypatch.setenv(name, value)
    made = get_completion_class(shell)(main, {}, "edgeprune", "_EDGEPRUNE_COMPLETE")
    assert {item.value for item in made.get_completions([], "")} >= set(COMMANDS)


def test_completion_works_in_a_real_bash(tmp_path: Path) -> None:
    tool = tmp_path / "edgeprune"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgeprune "$@"\n')
    tool.chmod(0o755)
    script = (
        'eval "$(_EDGEPRUNE_COMPLETE=bash_source edgeprune)"\n'
        "complete -p edgeprune >&2\nCOMP_WORDS=(edgeprune ga); COMP_CWORD=1\n"
        '_edgeprune_completion edgeprune ga edgeprune\necho "${COMPREPLY[@]}"\n'
        'COMPREPLY=(); COMP_WORDS=(edgeprune gate --sa); COMP_CWORD=2\n_edgeprune_completion edgeprune --sa gate\necho "${COMPREPLY[@]}"\n'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["gate", "--sarif"], done.stderr


def test_the_tab_key_completes_in_a_real_bash(tmp_path: Path) -> None:
    """An interactive bash on a terminal of its own, set up by the line of the documents; then Tab is pressed."""
    tool = tmp_path / "edgeprune"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgeprune "$@"\n')
    tool.chmod(0o755)
    page = (Path(__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
    (line,) = [text for text in page.splitlines() if text.startswith("eval ") and "bash_source" in text]
    (tmp_path / "rc").write_text(f"PS1='ready> '\n{line}\nbind 'set bell-style none'\n")
    names = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb", "HOME": str(tmp_path)}
    child, terminal = pty.fork()
    if not child:
        os.execvpe("bash", ["bash", "--rcfile", str(tmp_path / "rc"), "-i"], {**os.environ, **names})
    said = ""

    def until(words: str) -> None:
        nonlocal said
        end = time.monotonic() + 60
        while words not in said:
            assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], said
            said += os.read(terminal, 4096).decode()
        said = said.partition(words)[2]

    try:
        until("ready> ")
        os.write(terminal, b"edgeprune expl\t")
        until("edgeprune explain ")
        os.write(terminal, b"\x15edgeprune gate --sar\t")
        until("edgeprune gate --sarif ")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def test_no_command_shows_the_help(terminal: Terminal) -> None:
    ended = terminal()
    assert ended.code == 2
    assert ended.err.startswith("Usage: edgeprune ")
    assert "Try it:   edgeprune demo" in ended.err


def test_errors_have_one_shape(terminal: Terminal) -> None:
    for arguments in (
        ["gate"],
        ["gate", "nowhere"],
        ["gate", ".", "--limit", "x=1"],
        ["inspekt"],
        ["run", "--keep", "two"],
    ):
        ended = terminal(*arguments)
        assert ended.code == 2
        assert ended.err.startswith("error: "), ended.err
        assert len(ended.err.strip().splitlines()) == 1, ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", ".", "--limit", "params_ratio=1", "--sarif", "x.sarif", "--github"],
        ["lint", "."],
        ["explain"],
        ["config"],
        ["schema"],
    ],
)
def test_what_ci_calls_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    full_run().save(tmp_path)
    script = (
        f"import sys; sys.argv = ['edgeprune', *{arguments!r}]\n"
        "from edgeprune.cli import entry\n"
        "try:\n    entry()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_json_stands_alone_on_standard_output(terminal: Terminal) -> None:
    full_run().save(Path())
    ended = terminal("gate", ".", "--limit", "observed_error=0.1", "--json", "--github")
    assert json.loads(ended.out)["passed"] is False
    assert "::error" in ended.err


def test_no_color_is_obeyed(tmp_path: Path) -> None:
    full_run().save(tmp_path)
    command = [sys.executable, "-m", "edgeprune", "gate", ".", "--limit", "observed_error=0.1"]
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        said = _on_a_terminal(command, tmp_path, environment)
        assert ("\x1b[" in said) is coloured, said


def _on_a_terminal(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command writes to a terminal."""
    ours, theirs = os.openpty()
    settings = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | environment
    done = subprocess.Popen(command, cwd=folder, env=settings, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:
        pass  # the other end is closed: all was read
    done.wait()
    os.close(ours)
    return said.decode()


def test_a_metric_is_computed_from_what_a_run_saved(terminal: Terminal, tmp_path: Path) -> None:
    from edgeprune.inputs.measures import keep_reference

    full_run().save(Path())
    outputs = np.arange(12.0).reshape(6, 2)
    keep_reference(Path(), [outputs], np.arange(6) % 2)
    (Path("logs") / "outputs").mkdir()
    for name in ("cpu", "arm-board"):
        np.savez(Path("logs") / "outputs" / f"{name}.npz", **{"000": outputs + 0.25})
    Path("own.py").write_text(
        "import numpy as np\n"
        "def worst(pruned, original, labels):\n    assert len(labels) == 6\n    return np.abs(pruned - original).max()\n"
        "def bad(pruned, original, labels):\n    raise ValueError('no')\n"
    )
    off = ["--limit", "observed_error=off"]
    passed = terminal("gate", ".", *off, "--metric", "worst=own.py:worst<=0.25", "--json")
    found = {(c["name"], c["target"]): c for c in json.loads(passed.out)["checks"]}
    assert found["metric:worst", "cpu"]["measured"] == 0.25
    assert found["metric:worst", "webgpu"]["outcome"] == "unavailable"
    raised = terminal("gate", ".", "--metric", "bad=own.py:bad<=1")
    assert "ValueError: no" in raised.out
    assert raised.code == 5
    missing = terminal("gate", ".", "--metric", "x=own.py:wrst<=1")
    assert missing.code == 2
    assert "did you mean 'worst'" in missing.err


def test_regressions_from_the_command_line(terminal: Terminal, tmp_path: Path) -> None:
    full_run().save(Path())
    (tmp_path / "old").mkdir()
    full_run().save(tmp_path / "old")
    ended = terminal("gate", ".", "--baseline", "old", "--regression", "size=1", "--json")
    assert {c["name"]: c["outcome"] for c in json.loads(ended.out)["checks"]} == {"regression:size": "pass"}
    assert ended.code == 0
    latency = terminal("gate", ".", "--baseline", "old", "--regression", "latency=5")
    assert latency.code == 5
    assert "--remeasure" in latency.out
    assert terminal("gate", ".", "--regression", "5").code == 2


@pytest.mark.slow
def test_one_step_from_a_configuration_to_a_verdict(terminal: Terminal) -> None:
    random = np.random.default_rng(0)
    np.savez("data.npz", x=random.uniform(-1, 1, (96, 8)).astype(np.float32))
    Path("own.py").write_text(
        "def mean(pruned, original, labels):\n    return abs(pruned - original).mean()\n"
    )
    Path("edgeprune.toml").write_text(
        f'model = "{SMALL}:build"\ninput = ["1x8"]\ncalibration = "data.npz"\nmultiple = 1\nlatency = false\n'
        "certify = false\nsimplify = false\n[limits]\nobserved_error = 1e-9\ncompression = 99\n"
        'level = {observed_error = "warn"}\n[[limits.metrics]]\nname = "mean"\nfunction = "own.py:mean"\nat_most = 1\n'
    )
    ended = terminal(
        "run", "--config", "edgeprune.toml", "--junit", "j.xml", "--sarif", "s.sarif", "--json", "-q"
    )
    assert ended.code == 1, ended.err
    verdict = json.loads(ended.out)["verdict"]
    assert {c["name"]: (c["outcome"], c["level"]) for c in verdict["checks"]} == {
        "observed_error": ("fail", "warn"),
        "compression": ("fail", "error"),
        "metric:mean": ("pass", "error"),
    }
    assert Path("runs/build/run.json").is_file()
    places = [
        (
            r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            r["locations"][0]["physicalLocation"]["region"]["startLine"],
        )
        for r in json.loads(Path("s.sarif").read_text())["runs"][0]["results"]
        if r["ruleId"] == "EP401"
    ]
    assert places == [("edgeprune.toml", 10), ("edgeprune.toml", 9)]
    again = terminal("gate", "runs/build", "--json")  # the metric is not run again, its value is taken
    assert again.code == 1
    assert [c["measured"] for c in json.loads(again.out)["checks"]] == [
        c["measured"] for c in verdict["checks"]
    ]
