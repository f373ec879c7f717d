"""The action, the GitLab job and the hooks: their schemas, and their scripts really run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_runs import full_run
from terminal import SMALL

from edgeprune.records.run import Check, Verdict

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("ruamel.yaml", reason="comes with check-jsonschema")


def read(name: str) -> Any:
    return yaml.YAML(typ="safe").load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "schema"), [("action.yml", "github-actions"), ("ci/gitlab.yml", "gitlab-ci")]
)
def test_the_templates_are_valid(name: str, schema: str) -> None:
    pytest.importorskip("check_jsonschema")
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(ROOT / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hooks_are_valid() -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    hooks = clientlib.load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))
    assert [hook["id"] for hook in hooks] == ["edgeprune-config", "edgeprune-onnx"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A job's environment, in which `edgeprune` is this checkout's."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "edgeprune"
    tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edgeprune "$@"\n')
    tool.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    told = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    return {**os.environ, **told, "PATH": path, "PYTHONPATH": str(ROOT)}


def test_the_action_gates_a_run(tmp_path: Path, environment: dict[str, str]) -> None:
    run_dir = tmp_path / "a run"
    run_dir.mkdir()
    full_run().save(run_dir)
    (step,) = [s for s in read("action.yml")["runs"]["steps"] if s.get("id") == "edgeprune"]
    given = {"RUN": "a run", "OUTPUT": "out", "CONFIG": "", "BASELINE": "a run"}
    asked = {**environment, **given, "ARGS": "--limit params_ratio=0.1"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env=asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert outputs["exit-code"] == "1"
    assert "::error file=a run/run.json,line=1,title=edgeprune EP401 limit-broken::" in done.stdout
    assert json.loads((tmp_path / outputs["sarif"]).read_text())["version"] == "2.1.0"
    assert "Fail" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("name", [".pre-commit-hooks.yaml"])
def test_the_hooks_say_what_is_wrong(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "edgeprune.toml").write_text("methd = 1\n")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "edgeprune.toml").write_text("seed = 1\n")
    (tmp_path / "broken.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    cases = {
        "edgeprune-config": ("edgeprune.toml", 2, "did you mean 'method'"),
        "edgeprune-onnx": ("broken.onnx", 1, "EP501"),
    }
    for hook in read(name):
        file, code, said = cases[hook["id"]]
        done = subprocess.run(
            [*shlex.split(hook["entry"]), file],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert said in done.stdout + done.stderr
    done = subprocess.run(
        ["edgeprune", "config", "--check", "good/edgeprune.toml"], cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project: a configuration with a limit that holds, and the net that it names."""
    (tmp_path / "edgeprune.toml").write_text(
        f'model = "{SMALL}:build"\ninput = ["1x8"]\nmethod = "magnitude"\nmultiple = 1\nlatency = false\n'
        "certify = false\nsimplify = false\n[limits]\nparams_ratio = 0.9\n"
    )
    return tmp_path


@pytest.mark.slow
def test_the_action_prunes_and_gates_as_on_github(project: Path, environment: dict[str, str]) -> None:
    (step,) = [s for s in read("action.yml")["runs"]["steps"] if s.get("id") == "edgeprune"]
    names = {
        name: read("action.yml")["inputs"][name]["default"]
        for name in ("run", "baseline", "output", "config")
    }
    given = {name.upper(): str(value) for name, value in names.items()}
    asked = {**environment, **given, "ARGS": "", "GITHUB_WORKSPACE": str(project), "GITHUB_ACTIONS": "true"}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=project, env=asked, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outputs = dict(line.split("=", 1) for line in (project / "output").read_text().splitlines())
    assert set(outputs) == set(read("action.yml")["outputs"])
    assert (project / outputs["run"] / "pruned.onnx").is_file()
    assert "Pass" in (project / "summary.md").read_text()
    assert json.loads((project / outputs["sarif"]).read_text())["version"] == "2.1.0"
    junit = pytest.importorskip("junitparser").JUnitXml.fromfile(str(project / outputs["junit"]))
    assert sum(suite.tests for suite in junit) >= 1


@pytest.mark.slow
def test_the_gitlab_job_leaves_what_it_names(project: Path, environment: dict[str, str]) -> None:
    job = read("ci/gitlab.yml")[".edgeprune"]
    variables = {name: str(value) for name, value in job["variables"].items()}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])],
        cwd=project, env={**environment, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in (*job["artifacts"]["paths"], *job["artifacts"]["reports"].values()):
        assert (project / path.replace("$EDGEPRUNE_OUTPUT", variables["EDGEPRUNE_OUTPUT"])).exists(), path
    assert (project / "metrics.txt").read_text().endswith("# EOF\n")


def test_every_command_of_the_gitlab_job_parses() -> None:
    import click

    from edgeprune.cli import main

    for line in read("ci/gitlab.yml")[".edgeprune"]["script"]:
        _, name, *arguments = shlex.split(line)
        context = click.Context(main)
        command = main.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments, parent=context)


def test_a_verdict_without_errors_passes_the_action(tmp_path: Path, environment: dict[str, str]) -> None:
    import dataclasses

    run_dir = tmp_path / "r"
    run_dir.mkdir()
    dataclasses.replace(full_run(), verdict=Verdict(True, (Check("p", 1.0, 2.0, "pass"),))).save(run_dir)
    (step,) = [s for s in read("action.yml")["runs"]["steps"] if s.get("id") == "edgeprune"]
    given = {"RUN": "r", "OUTPUT": "out", "CONFIG": "", "BASELINE": "", "ARGS": "--limit params_ratio=0.9"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={**environment, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_hooks_stop_a_commit_in_a_real_repository(tmp_path: Path, environment: dict[str, str]) -> None:
    """git commits, pre-commit runs the hooks: a bad configuration and a broken model stay out."""
    pytest.importorskip("pre_commit")
    project = tmp_path / "project"
    project.mkdir()
    local = [
        {key: hook[key] for key in ("id", "name", "entry", "language", "files")}
        for hook in read(".pre-commit-hooks.yaml")
    ]
    (project / ".pre-commit-config.yaml").write_text(
        json.dumps({"repos": [{"repo": "local", "hooks": local}]})
    )
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {**environment, **names, "PRE_COMMIT_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}

    def ran(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=project, env=own, capture_output=True, text=True, check=False)

    assert ran("git", "init", "-q").returncode == 0
    assert ran(sys.executable, "-m", "pre_commit", "install").returncode == 0
    (project / "edgeprune.toml").write_text("methd = 1\n")
    (project / "broken.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    ran("git", "add", ".")
    refused = ran("git", "commit", "-m", "bad")
    assert refused.returncode == 1, refused.stderr
    assert "did you mean 'method'" in refused.stdout + refused.stderr
    assert "EP501" in refused.stdout + refused.stderr
    (project / "edgeprune.toml").write_text("seed = 1\n")
    ran("git", "rm", "-q", "--cached", "broken.onnx")
    ran("git", "add", "edgeprune.toml")
    made = ran("git", "commit", "-m", "good")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "Passed" in made.stdout + made.stderr
    assert ran("git", "log", "--oneline").stdout.count("\n") == 1


def test_pre_commit_reads_the_hooks_from_this_repository(tmp_path: Path, environment: dict[str, str]) -> None:
    """As a user's configuration names them: by repository and revision, cloned by pre-commit itself."""
    pytest.importorskip("pre_commit")
    project, origin = tmp_path / "project", tmp_path / "origin"
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {**environment, **names, "PRE_COMMIT_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}

    def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)

    for folder in (project, origin):
        folder.mkdir()
        ran(folder, "git", "init", "-q")
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", origin)
    ran(origin, "git", "add", ".")
    ran(origin, "git", "commit", "-qm", "hooks")
    ran(origin, "git", "tag", "v1")
    config = {"repos": [{"repo": str(origin), "rev": "v1", "hooks": [{"id": "edgeprune-config"}]}]}
    (project / ".pre-commit-config.yaml").write_text(json.dumps(config))
    (project / "edgeprune.toml").write_text("keep = 3\n")
    ran(project, "git", "add", ".")
    done = ran(project, sys.executable, "-m", "pre_commit", "run", "--all-files")
    assert done.returncode == 1, done.stderr
    assert "keep is a share above 0 and at most 1, not 3" in done.stdout
