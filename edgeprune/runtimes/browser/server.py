"""What the page is served: a job, onnxruntime-web, and a place to leave the answer.

Only this machine can connect, only under a path that nobody can guess, and only the files named
below are given. The headers isolate the page, which browsers ask for before they allow threads.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from edgeprune.runtimes.agent.work import PROBE

HERE = Path(__file__).parent
MOST_BYTES = 1 << 30
"""An answer larger than this is refused."""
_TYPES = {
    ".html": "text/html",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
}


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """One job as the page sees it.

    Attributes:
        job: the job folder.
        package: the folder `dist` of onnxruntime-web.
        peak_mb: asks for the browser's peak memory, MiB.
        token: the first part of every path.
        done: set when the result was left.
    """

    job: Path
    package: Path
    peak_mb: Callable[[], float]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    done: threading.Event = field(default_factory=threading.Event)

    def get(self, name: str) -> bytes | None:
        """The content of one of the names below, None for any other."""
        if name in ("", "page.html"):
            return (HERE / "page.html").read_bytes()
        if name == "agent.mjs":
            return (HERE / "agent.mjs").read_bytes()
        if name == "job.json":
            return (self.job / "job.json").read_bytes()
        if name == "probe.onnx":
            return PROBE
        if name == "peak":
            return json.dumps({"peak_mb": self.peak_mb()}).encode()
        if name == "inputs.json":
            return json.dumps([{"dtype": a.dtype.str, "shape": a.shape} for a in self._inputs()]).encode()
        folder, _, rest = name.partition("/")
        if folder == "inputs" and rest.isdecimal() and int(rest) < len(self._inputs()):
            return self._inputs()[int(rest)].tobytes()
        if folder == "models" and name in json.loads((self.job / "job.json").read_bytes())["files"]:
            return (self.job / name).read_bytes()
        if folder == "ort" and rest.endswith((".mjs", ".wasm")) and "/" not in rest:
            path = self.package / rest
            return path.read_bytes() if path.is_file() else None
        return None

    def _inputs(self) -> list[np.ndarray]:
        with np.load(self.job / "inputs.npz", allow_pickle=False) as archive:
            return [archive[f"input_{i}"] for i in range(len(archive.files))]

    def post(self, name: str, body: bytes) -> bool:
        """Take one part of the answer; false when there is no such part."""
        folder, _, rest = name.partition("/")
        if name == "result":
            (self.job / "answer.json").write_bytes(body)
            self.done.set()
        elif folder == "outputs" and rest.isdecimal() and len(rest) < 4:
            (self.job / f"output_{int(rest)}.raw").write_bytes(body)
        else:
            return False
        return True


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """Serve a job; yields the page's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(desk))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{desk.token}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(desk: Desk) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            name = self._name()
            self._send(None if name is None else desk.get(name), name or "")

        def do_POST(self) -> None:
            name, length = self._name(), self.headers.get("Content-Length", "")
            if name is None or not length.isdecimal() or int(length) > MOST_BYTES:
                return self._send(None, "")
            taken = desk.post(name, self.rfile.read(int(length)))
            return self._send(b"{}" if taken else None, ".json")

        def _name(self) -> str | None:
            """The path behind the token; None for a stranger, or a page of another site."""
            assert isinstance(self.server, ThreadingHTTPServer)
            port = self.server.server_port
            _, token, name = (*self.path.split("/", 2), "", "")[:3]
            known = secrets.compare_digest(token.encode(), desk.token.encode())
            return name if known and self.headers.get("Host") == f"127.0.0.1:{port}" else None

        def _send(self, body: bytes | None, name: str) -> None:
            self.send_response(404 if body is None else 200)
            kind = _TYPES.get(Path(name).suffix or ".html" * (name == ""), "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    return Answering
