"""A real ssh server on the loopback: its own port, host key and authorised key."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from wanted import missing


@dataclass
class Server:
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)

    def machine(self, **changes: str) -> dict[str, str]:
        """An inventory entry for it, values as TOML."""
        return {
            "host": '"127.0.0.1"',
            "user": f'"{getpass.getuser()}"',
            "key": f'"{self.folder / "user"}"',
            "known_hosts": f'"{self.folder / "known_hosts"}"',
            "port": str(self.port),
            "folder": f'"{self.folder / "jobs"}"',
            **changes,
        }

    def inventory(self, **changes: str) -> Path:
        path = self.folder / "inventory.toml"
        lines = (f"{name} = {value}" for name, value in self.machine(**changes).items())
        path.write_text("[board]\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return path


def keygen(path: Path) -> str:
    """A new key pair; returns the public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_name(path.name + ".pub").read_text(encoding="utf-8").strip()


def start(folder: Path, *more: str) -> Server:
    """Start a server in `folder`; `more` are lines of its configuration."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).is_file() or shutil.which("ssh") is None:
        missing("openssh-server or openssh-client is not installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs").mkdir(exist_ok=True)
    host_key = keygen(folder / "host")
    (folder / "authorized_keys").write_text(keygen(folder / "user") + "\n", encoding="utf-8")
    kind, key, *_ = host_key.split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n", encoding="utf-8")
    config = [
        "ListenAddress 127.0.0.1", f"Port {port}", f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized_keys'}", f"PidFile {folder / 'pid'}",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "StrictModes no",
        "PermitRootLogin prohibit-password", "AllowTcpForwarding no", "X11Forwarding no",
        *more,
    ]  # fmt: skip
    (folder / "config").write_text("\n".join(config) + "\n", encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stderr=log
        )
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return Server(folder, port, process)
        time.sleep(0.05)
    process.kill()
    raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
