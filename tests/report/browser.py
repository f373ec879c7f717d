"""A headless Chromium that opens a page, and axe-core for what stands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
THEMES = {"light": "1", "dark": "0"}


def axe() -> str:
    """The source of axe-core, '' where it is not installed."""
    given = os.environ.get("EDGEPRUNE_AXE")
    if given:
        return Path(given).read_text(encoding="utf-8")
    found = find_spec("axe_core_python")
    places = found.submodule_search_locations if found is not None else None
    return (Path(places[0]) / "axe.min.js").read_text(encoding="utf-8") if places else ""


def opened(
    page: Path, theme: str, work: Path, task: tuple[str, ...] = ("--dump-dom",)
) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={work / 'profile'}", "--enable-logging=stderr", "--window-size=1100,900",
        f"--blink-settings=preferredColorScheme={THEMES[theme]}", "--virtual-time-budget=20000",
        *task, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
