"""Lines of the documents that are not edgeprune's own: each is run, or read by what would read it.

What cannot be done here is named with its reason, so that a new line is never passed over.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_docs import PAGES, ROOT

SHELLS = ("", "sh", "bash", "zsh", "fish", "console")
PROSE = ("LeNet300100", "edgeprune/", "# ")
"""How a block begins that is no command: an output, a tree of folders, a comment of a file."""
ELSEWHERE = {
    "ssh-copy-id": "asks a board for its password",
    "ssh-keyscan": "asks a board for its keys",
    "dask": "never ends; that it knows the options is seen below",
    "optuna-dashboard": "never ends; that it starts is seen below",
}


def _blocks() -> list[tuple[str, str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for space, language, body in re.findall(r"^( *)```([\w-]*)\n(.*?)^ *```", text, re.M | re.S):
            body = "\n".join(line.removeprefix(space) for line in body.splitlines())
            found.append((page.relative_to(ROOT).as_posix(), language, body))
    return found


BLOCKS = _blocks()
LINES = list(
    dict.fromkeys(
        (page, line.split(" # ")[0].strip())
        for page, language, body in BLOCKS
        if language in SHELLS and not body.startswith(PROSE)
        for line in body.splitlines()
        if line.strip() and not line.lstrip("$ ").startswith(("edgeprune ", "#"))
    )
)


def ran(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    own = {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-ec", line],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_kind_of_block_has_a_reader() -> None:
    assert {language for _, language, _ in BLOCKS} <= {*SHELLS, "python", "toml", "yaml"}
    assert len(LINES) >= 12


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_line_does_what_it_says(page: str, line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    words = words[1:] if "=" in words[0] else words
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    elif words[:2] == ["pip", "install"]:
        _installable(words[2:])
    elif words[0] in ("openssl", "ssh-keygen"):
        (tmp_path / ".ssh").mkdir()
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        if "-in private.pem" in line:
            made = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem"
            assert ran(made, tmp_path).returncode == 0
        done = ran(line, tmp_path)
        assert done.returncode == 0, done.stderr
    elif "_EDGEPRUNE_COMPLETE=" in line:
        _completes(line)
    elif words[0] == "dask":
        _knows([*words[:2], "--help"], [word for word in words if word.startswith("--")])
    elif words[0] == "optuna-dashboard":
        _knows([words[0], "--help"], ["storage"])
    else:
        assert words[0] in ELSEWHERE, f"{page}: nothing looks at this line: {line}"
        assert ran(f"set -n; {line}", tmp_path).returncode == 0


def _installable(words: list[str]) -> None:
    """pip's own reader of requirements takes them, the extras exist, and a version is the one that is tested with."""
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if "-c" in words:
        place = words.index("-c")
        assert (ROOT / words[place + 1]).is_file()
        del words[place : place + 2]
    for word in words:
        if word.startswith("--"):
            assert word == "--no-deps", word
            continue
        asked = requirements.Requirement(word)
        if asked.name == "edgeprune":
            assert asked.extras <= set(project["optional-dependencies"]), word
        if f"\n{asked.name}==" in pinned and asked.specifier:
            assert f"\n{asked}\n" in pinned, word


def _completes(line: str) -> None:
    shell = re.search(r"=(\w+)_source", line)
    assert shell is not None
    own = {**os.environ, "_EDGEPRUNE_COMPLETE": f"{shell[1]}_source"}
    program = "import sys; sys.argv = ['edgeprune']; from edgeprune.cli import entry; entry()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=own, capture_output=True, text=True, check=False
    )
    assert {"bash": "complete -o nosort", "zsh": "compdef", "fish": "complete --no-files"}[
        shell[1]
    ] in done.stdout


def _knows(command: list[str], options: list[str]) -> None:
    if (
        shutil.which(command[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        is None
    ):
        pytest.skip(f"{command[0]} is not installed")
    done = ran(shlex.join(command), Path.cwd())
    assert done.returncode == 0, done.stderr
    for option in options:
        assert option in done.stdout, option


YAML = [body for _, language, body in BLOCKS if language == "yaml"]


@pytest.mark.parametrize("body", YAML)
def test_yaml_is_what_its_reader_takes(body: str, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    content: Any = pytest.importorskip("ruamel.yaml").YAML(typ="safe").load(body)
    if isinstance(content, list):
        _workflow(content, body, tmp_path)
    elif "repos" in content:
        _hooks(content, tmp_path)
    else:
        _valid(content, "gitlab-ci", tmp_path)
        template = (ROOT / "ci" / "gitlab.yml").read_text(encoding="utf-8")
        assert f"\n{content['prune']['extends']}:\n" in template
        assert all(f"{name}:" in template for name in content["prune"]["variables"])


def test_each_system_has_a_snippet() -> None:
    assert len(YAML) == 3


def _valid(content: Any, schema: str, folder: Path) -> None:
    path = folder / "content.json"
    path.write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _hooks(content: Any, folder: Path) -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    path = folder / ".pre-commit-config.yaml"
    path.write_text(json.dumps(content))
    (repository,) = clientlib.load_config(str(path))["repos"]
    manifest = clientlib.load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))
    assert {hook["id"] for hook in repository["hooks"]} == {hook["id"] for hook in manifest}


def _workflow(steps: Any, body: str, folder: Path) -> None:
    _valid(
        {"on": "push", "jobs": {"x": {"runs-on": "ubuntu-latest", "steps": steps}}},
        "github-workflows",
        folder,
    )
    yaml = pytest.importorskip("ruamel.yaml").YAML(typ="safe")
    action = yaml.load((ROOT / "action.yml").read_text(encoding="utf-8"))
    for step in steps:
        if "edgeprune@" in step.get("uses", ""):
            assert set(step["with"]) <= set(action["inputs"])
    for name in re.findall(r"steps\.edgeprune\.outputs\.([\w-]+)", body):
        assert name in action["outputs"]


def test_the_scripts_that_documents_name_are_there_and_know_the_options() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"python -m (benchmarks\.[a-z_]+)((?: --[a-z-]+(?: [^`\s-][^`\s]*)?)*)", text))
    assert len(named) >= 20
    for module, options in named:
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert path.is_file(), module
        source = path.read_text(encoding="utf-8") + (ROOT / "benchmarks" / "harness.py").read_text(
            encoding="utf-8"
        )
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in source, f"{module} {option}"
