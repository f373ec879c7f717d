"""Where every target is demanded, as in CI, a test that skips itself fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_plain():
    pytest.skip("no browser is here")

@pytest.mark.skipif(True, reason="no emulator is here")
def test_marked():
    pass

def test_allowed():
    pytest.skip("root may write anywhere")
"""


@pytest.mark.parametrize("demanded", ["0", "1"])
def test_a_skip_is_a_failure_where_targets_are_demanded(tmp_path: Path, demanded: str) -> None:
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_one.py").write_text(SKIPPING)
    (tmp_path / "test_whole.py").write_text(
        'import pytest\n\npytest.importorskip("no_such_module_anywhere")\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors",
         str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "EDGEPRUNE_DEMAND_TARGETS": demanded},
    )  # fmt: skip
    if demanded == "0":
        assert done.returncode == 0, done.stdout
        assert "4 skipped" in done.stdout
        return
    assert done.returncode != 0
    assert "1 failed, 1 skipped, 2 errors" in done.stdout
    assert "nothing may be skipped" in done.stdout
    for words in ("no browser is here", "no emulator is here", "no_such_module_anywhere"):
        assert words in done.stdout
