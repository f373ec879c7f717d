"""The documentation builds without a warning, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgeprune.config import Settings
from edgeprune.domains.spec import DomainSpec
from edgeprune.profiles import Data
from edgeprune.runtimes.inventory import Machine
from edgeprune.tables import read_table
from edgeprune.target import Target
from edgeprune.verdict.lints import RULES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {
        path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("index.html")
    }
    assert {"index.html", "guides/ci-gate/index.html", "reference/index.html"} <= pages
    assert "compress" in (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")


def test_every_rule_is_described_as_it_is() -> None:
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        assert f"### {rule.id} {rule.name} {{#{rule.id}}}" in text
        for words in (rule.short, rule.why, rule.remedy):
            assert words in text, rule.id


def _tables() -> list[tuple[str, str]]:
    return [
        (page.relative_to(ROOT).as_posix(), block)
        for page in [*PAGES, *sorted(ROOT.glob("*/README.md")), ROOT / "README.md"]
        for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    ]


@pytest.mark.parametrize(("page", "block"), _tables())
def test_every_toml_snippet_is_read(page: str, block: str) -> None:
    content = tomllib.loads(block)
    if "project" in content:
        assert list(content["project"]["entry-points"]) in (["edgeprune.ops"], ["edgeprune.coresets"])
        return
    if all(isinstance(value, dict) and "host" in value for value in content.values()):
        for name, machine in content.items():
            read_table(Machine, machine, f"{page}: [{name}]")
        return
    if "data" in content:  # a calibration set
        read_table(Data, content["data"], page)
        read_table(DomainSpec, content["domain"], page)
        return
    extends = content.pop("extends", None)
    kind = Target if extends or "connection" in content or "runtime" in content else Settings
    read_table(kind, {"name": "x", **content} if kind is Target else content, page)


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "pictures").glob("report-*.png"))
    assert pictures
    assert sum(path.stat().st_size for path in pictures) <= 200_000


def test_the_run_folder_is_described() -> None:
    from edgeprune.records.provenance import LISTED, SIGNATURE, SUMS

    text = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    for name in (*LISTED, SUMS, SIGNATURE):
        assert f"`{name}`" in text or name.endswith(".data"), name
