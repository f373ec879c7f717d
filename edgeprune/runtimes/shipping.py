"""The agent as one file that a device can run: a Python zip application."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgeprune.files import atomic

_SOURCES = Path(__file__).with_name("agent")
_START = (
    "import sys\n\nfrom edgeprune.runtimes.agent.work import command\n\n"
    'if __name__ == "__main__":\n    sys.exit(command(sys.argv))\n'
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_agent(folder: Path) -> Path:
    """Pack the agent into `folder/agent.pyz`; the same sources give the same bytes.

    Its modules keep their names, and the packages above them are empty there, so that the agent
    finds itself and nothing else of edgeprune.

    Raises:
        StorageError: the disk cannot take it.
    """
    content = {"__main__.py": _START, "edgeprune/__init__.py": "", "edgeprune/runtimes/__init__.py": ""}
    for source in sorted(_SOURCES.glob("*.py")):
        content[f"edgeprune/runtimes/agent/{source.name}"] = source.read_text(encoding="utf-8")
    path = folder / "agent.pyz"
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, text in content.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return path
