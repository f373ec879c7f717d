"""The wheel holds what it needs: built, installed in a new environment, the demo run from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_data_and_licences(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "edgeprune/targets/cpu.toml",
        "edgeprune/calibration/mnist.toml",
        "edgeprune/calibration/mnist.npz",
        "edgeprune/demo/lenet_300_100.safetensors",
        "edgeprune/report/report.html.j2",
    ):
        assert needed in names, needed
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.slow
def test_the_demo_runs_from_an_installed_wheel(wheel: Path, tmp_path: Path):
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    # what edgeprune depends on is taken from this environment; edgeprune itself is not, since
    # editable installs are not followed through a path file
    site = next(home.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    where = [str(python), "-c", "import edgeprune; print(edgeprune.__file__)"]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path, env=own).stdout
    assert str(site) in found
    demo = [str(home / "bin" / "edgeprune"), "demo", "--no-latency", "-o", "out"]
    done = subprocess.run(demo, capture_output=True, text=True, cwd=tmp_path, env=own, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["validations"][0]["drift"]["accuracy"][1] > 0.975
