"""What the documents say is true: commands parse, snippets run, every command is described."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import small
import torch

from edgeprune.cli import COMMANDS, main
from edgeprune.errors import EdgepruneError

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def _commands(page: Path) -> list[str]:
    fenced = "\n".join(re.findall(r"^\s*```\w*\n(.*?)^\s*```", page.read_text(encoding="utf-8"), re.M | re.S))
    lines = re.findall(r"^\s*(?:\$ )?(edgeprune [a-z][^\n]*)$", fenced.replace("\\\n", " "), re.MULTILINE)
    return [re.split(r" #| > ", line)[0].rstrip() for line in lines]


WRITTEN = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in _commands(page)]


@pytest.mark.parametrize(("page", "line"), WRITTEN)
def test_every_command_in_the_documents_parses(page: str, line: str):
    _, name, *arguments = shlex.split(line)
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command is not None, f"{page}: {line}"
    command.make_context(name, arguments, parent=context)


def test_there_are_commands_to_check():
    assert len(WRITTEN) >= 5


def test_the_readme_describes_every_command_and_method():
    from edgeprune.coresets import CORESETS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`edgeprune {name}`" in text, name
    for name in CORESETS:
        assert f"`{name}`" in text, name


def test_the_help_of_run_names_every_setting():
    import dataclasses

    from edgeprune.config import Settings

    context = click.Context(main)
    options = {o for n in ("run", "certify") for p in main.get_command(context, n).params for o in p.opts}
    for item in dataclasses.fields(Settings):
        name = {"limits": "limit", "model": "model"}.get(item.name, item.name)
        flag = f"--{name.replace('_', '-')}"
        assert flag in options or name == "model" or item.name in _FILE_ONLY, f"{flag} is no option"


_FILE_ONLY = {"simplify_limit_s"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [p.relative_to(ROOT).as_posix() for p in PAGES if _blocks(p, "python")])
def test_every_python_snippet_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("data.npz", x=random.standard_normal((256, 8)).astype(np.float32))
    names = {"factory": small.build, "net": small.build(), "example_inputs": torch.randn(1, 8)}
    snippets = sorted(_blocks(ROOT / page, "python"), key=lambda code: "load(" in code)
    for code in snippets:
        _run(code, names, page)


def _run(code: str, names: dict[str, object], page: str) -> None:
    try:
        exec(compile(code, page, "exec"), names)
    except EdgepruneError as error:
        pytest.fail(f"{page}: {error}")


def test_links_between_the_documents_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


def test_settings_and_commands_are_documented_as_they_are():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "document.py"), "--check"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
