"""Starts a browser on a page that does a job, and takes the answer from it.

A target names the program and the folder of onnxruntime-web:

    [connection]
    browser = ["chromium", "--headless", "--user-data-dir={profile}", "{url}"]
    package = "{cache}/node_modules/onnxruntime-web"

`{url}` is the page, `{profile}` an empty folder for the browser's own things.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.files import write_text
from edgeprune.runtimes import processes
from edgeprune.runtimes.browser.server import Desk, served
from edgeprune.runtimes.places import filled
from edgeprune.target import Target

DTYPES = ("<f4", "<f8", "<i8", "<i4", "|u1", "|b1")


@dataclass(frozen=True, slots=True)
class Browser:
    """Does a job inside a browser on this machine."""

    name: str = "browser"

    def run(self, job: Path, target: Target, limit_s: float) -> Path:
        """Do a job in a fresh browser; the answer lies in the job folder.

        Raises:
            TargetUnavailable: the browser or onnxruntime-web is missing, or the page gave no sound
                answer in time.
            ConfigError: `[connection]` names no browser or no package.
        """
        package = _package(target)
        started: list[subprocess.Popen[bytes]] = []
        desk = Desk(job, package, lambda: peak_mb(started[0].pid))
        log = job / "agent.log"
        # a folder that vanishes late (a browser's children write to the end) must not fail the job
        with (
            tempfile.TemporaryDirectory(prefix="edgeprune-", ignore_cleanup_errors=True) as profile,
            served(desk) as url,
            log.open("wb") as stream,
        ):
            argv = _argv(target, {"url": url, "profile": profile})
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise TargetUnavailable(
                    f"{target.name}: {argv[0]} cannot be started ({error.strerror or error}); install it "
                    "or name another browser in the target."
                ) from error
            started.append(process)
            with processes.ended(process):
                _wait(desk, process, limit_s, log, target)
        _unpack(job, target)
        return job


def _package(target: Target) -> Path:
    strange = sorted(set(target.connection) - {"browser", "package"})
    package = target.connection.get("package")
    if strange or not isinstance(package, str):
        raise ConfigError(
            f"{target.name}: the transport 'browser' takes browser (a list) and package (a folder) in "
            f"[connection], found {', '.join(sorted(target.connection)) or 'nothing'}."
        )
    folder = Path(filled(package, {}, f"{target.name}: [connection] package")).expanduser()
    if not (folder / "dist" / "ort.wasm.min.mjs").is_file():
        raise TargetUnavailable(
            f"{target.name}: there is no onnxruntime-web in {folder}; install it: npm install "
            f"--ignore-scripts --prefix {folder.parent.parent} onnxruntime-web"
        )
    return folder / "dist"


def _argv(target: Target, words: dict[str, str]) -> list[str]:
    given = target.connection.get("browser")
    if not isinstance(given, tuple) or not given:
        raise ConfigError(
            f"{target.name}: [connection] browser: must be a list, the program and its arguments, with "
            '"{url}" among them.'
        )
    argv = [filled(part, words, f"{target.name}: [connection] browser") for part in given]
    if "chrom" in Path(argv[0]).name and hasattr(os, "geteuid") and os.geteuid() == 0:
        argv.insert(1, "--no-sandbox")  # Chromium's sandbox refuses to work for root
    return argv


def _wait(desk: Desk, process: subprocess.Popen[bytes], limit_s: float, log: Path, target: Target) -> None:
    end = time.monotonic() + limit_s
    while not desk.done.wait(0.1):
        status = process.poll()
        if status is not None:
            raise TargetUnavailable(
                f"{target.name}: the browser {processes.death(status)}.{processes.last_words(log)}"
            )
        if time.monotonic() > end:
            raise TargetUnavailable(
                f"{target.name}: the page did not finish within {limit_s:g} s and was closed; raise "
                f"[measure] limit_s or measure fewer samples.{processes.last_words(log)}"
            )


def peak_mb(pid: int) -> float:
    """Peak resident memory of the largest process among a browser's children, MiB: the page's."""
    import psutil

    largest = 0.0
    with contextlib.suppress(psutil.Error):
        parent: Any = psutil.Process(pid)  # type: ignore[no-untyped-call,unused-ignore]
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "--type=renderer" not in child.cmdline():
                    continue
                size_mb = child.memory_info().rss / (1 << 20)
                with contextlib.suppress(OSError):
                    for line in Path(f"/proc/{child.pid}/status").read_text(errors="replace").splitlines():
                        if line.startswith("VmHWM:"):
                            size_mb = int(line.split()[1]) / 1024
                largest = max(largest, size_mb)
    return largest


def _unpack(job: Path, target: Target) -> None:
    """The page's answer as `result.json` and `outputs.npz`."""
    try:
        result: Any = json.loads((job / "answer.json").read_text(encoding="utf-8"))
        arrays = {
            f"output_{i}": _array(job / f"output_{i}.raw", described)
            for i, described in enumerate(result.get("arrays", ()))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetUnavailable(f"{target.name}: the page's answer cannot be read ({error}).") from error
    if arrays:
        content: dict[str, Any] = dict(arrays)
        np.savez(job / "outputs.npz", **content)
    write_text(job / "result.json", json.dumps(result))


def _array(path: Path, described: dict[str, Any]) -> np.ndarray:
    dtype, shape = described["dtype"], [int(size) for size in described["shape"]]
    if dtype not in DTYPES or any(size < 0 for size in shape):
        raise ValueError(f"an array of {dtype} and shape {shape}")
    result: np.ndarray[Any, Any] = np.frombuffer(path.read_bytes(), dtype).reshape(shape)
    return result
