"""The transport by ssh: one connection takes the job there and brings the answer back.

The target names a machine of the user's inventory (`edgeprune.runtimes.inventory`). The login is
by that machine's key alone, its host key must be known, and no configuration of ssh is read, so
what a target or ~/.ssh/config says cannot run anything here. Nothing is installed there and
nothing is left: see `edgeprune.runtimes.doorman`. What comes back is bytes of known names and
sizes; `edgeprune.runtimes.jobs` then decides whether to believe them.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.runtimes import processes
from edgeprune.runtimes.doorman import ANSWER
from edgeprune.runtimes.inventory import Machine, expanded, find_machine
from edgeprune.runtimes.shipping import write_agent
from edgeprune.target import Target

DOORMAN = Path(__file__).with_name("doorman.py")
TRANSFER_S = 60.0
"""Seconds for connecting and carrying, beside the job's own."""
NOISE_BYTES = 1 << 16
"""A login may say so much before the answer begins."""
HEADER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ssh:
    """Starts the agent on a machine of the user's inventory."""

    name: str = "ssh"

    def run(self, job: Path, target: Target, limit_s: float) -> Path:
        """Do a job on the target's machine.

        Raises:
            TargetUnavailable: the machine cannot be reached or is not the known one, or the agent
                died, took too long or gave no answer.
            ConfigError: `[connection]` names no machine that the inventory knows.
        """
        name = target.connection.get("machine")
        if set(target.connection) != {"machine"} or not isinstance(name, str):
            raise ConfigError(
                f"{target.name}: the transport 'ssh' takes one entry in [connection], "
                'machine = "NAME", a name in your inventory; addresses and keys belong there.'
            )
        machine = find_machine(name, target.name)
        write_agent(job)
        mark = secrets.token_hex(16)
        received, log = job / "received", job / "ssh.log"
        status = _converse(machine, job, mark, limit_s, received, log, target)
        if status == 255:
            raise TargetUnavailable(
                f"{target.name}: no connection to {name} ({machine.host}).{processes.last_words(log)}"
            )
        answer = job / "answer"
        answer.mkdir(exist_ok=True)
        ended = _unpack(received, mark, answer, target, log)
        received.unlink()
        if ended is None:
            raise TargetUnavailable(
                f"{target.name}: the job did not finish within {limit_s:g} s on {name} and was stopped; "
                "raise [measure] limit_s or measure fewer samples."
                f"{processes.last_words(answer / 'agent.log')}"
            )
        if ended != 0 or not (answer / "result.json").is_file():
            words = processes.last_words(answer / "agent.log")
            raise TargetUnavailable(f"{target.name}: the process on {name} {processes.death(ended)}.{words}")
        return answer


def arguments(machine: Machine, mark: str, limit_s: float) -> list[str]:
    """The ssh command line. The one string that a shell sees, the remote one, is quoted word by word."""
    known = expanded(machine.known_hosts)
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{known}"',
        "GlobalKnownHostsFile": "none",
        "UpdateHostKeys": "no",
        "VerifyHostKeyDNS": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "PasswordAuthentication": "no",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "ControlMaster": "no",
        "ControlPath": "none",
        "EscapeChar": "none",
        "LogLevel": "ERROR",
        "ConnectTimeout": str(machine.connect_s),
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
    }
    argv = ["ssh", "-F", "none", "-T"]
    for option, value in options.items():
        argv += ["-o", f"{option}={value}"]
    argv += [
        "-i",
        str(expanded(machine.key)),
        "-p",
        str(machine.port),
        "-l",
        machine.user,
        "--",
        machine.host,
    ]
    source = DOORMAN.read_text(encoding="utf-8")
    there = [*machine.python, "-c", source, mark, f"{limit_s:g}", machine.folder, *machine.python]
    return [*argv, " ".join(shlex.quote(word) for word in there)]


def _converse(
    machine: Machine, job: Path, mark: str, limit_s: float, received: Path, log: Path, target: Target
) -> int:
    """Send the job, write what comes back to `received`; returns ssh's exit status."""
    names = ["job.json", "agent.pyz", "inputs.npz", *(p.relative_to(job).as_posix() for p in _models(job))]
    files = {name: (job / name).stat().st_size for name in names if (job / name).is_file()}
    with log.open("wb") as errors, received.open("wb") as sink:
        try:
            process = subprocess.Popen(
                arguments(machine, mark, limit_s),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise TargetUnavailable(
                f"{target.name}: ssh cannot be started ({error.strerror or error}); install openssh-client."
            ) from error
        assert process.stdin is not None
        assert process.stdout is not None
        most = machine.answer_mb << 20
        reader = threading.Thread(target=_copy, args=(process.stdout, sink, most), daemon=True)
        writer = threading.Thread(target=_send, args=(process.stdin, job, files), daemon=True)
        try:
            with processes.ended(process):
                reader.start()
                writer.start()
                reader.join(limit_s + TRANSFER_S)
                if reader.is_alive():
                    raise TargetUnavailable(
                        f"{target.name}: {machine.host} gave no answer within {limit_s + TRANSFER_S:g} s."
                        f"{processes.last_words(log)}"
                    )
                if sink.tell() > most:
                    raise TargetUnavailable(
                        f"{target.name}: the answer is larger than {machine.answer_mb} MiB and was not "
                        "taken; raise answer_mb in the inventory if it ought to be."
                    )
                writer.join(TRANSFER_S)
                _close(process.stdin)  # held open until here: its end would mean that nobody waits
                return process.wait(timeout=TRANSFER_S)
        finally:
            reader.join()
            writer.join()
            _close(process.stdin)
            _close(process.stdout)


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not yet sent has nobody to take it
        pipe.close()


def _models(job: Path) -> list[Path]:
    return sorted(path for path in job.glob("models/*/*") if path.is_file())


def _send(sink: IO[bytes], job: Path, files: dict[str, int]) -> None:
    try:
        sink.write(json.dumps({"files": files}).encode() + b"\n")
        for name in files:
            with (job / name).open("rb") as stream:
                shutil.copyfileobj(stream, sink)
        sink.flush()
    except (OSError, ValueError):
        return  # the other side is gone; ssh's status says why


def _copy(source: IO[bytes], sink: IO[bytes], most: int) -> None:
    while sink.tell() <= most and (block := source.read(1 << 20)):
        sink.write(block)


def _unpack(received: Path, mark: str, answer: Path, target: Target, log: Path) -> int | None:
    """The files of the answer, and the agent's exit status (None: it was stopped)."""

    def refused(why: str) -> TargetUnavailable:
        return TargetUnavailable(
            f"{target.name}: its answer cannot be read ({why}).{processes.last_words(log)}"
        )

    with received.open("rb") as stream:
        start = stream.read(NOISE_BYTES).find(mark.encode() + b"\n")
        if start < 0:
            raise refused("it does not begin")
        stream.seek(start + len(mark) + 1)
        try:
            header: Any = json.loads(stream.readline(HEADER_BYTES))
            status, files = header["status"], header["files"]
            sizes = {str(name): int(size) for name, size in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise refused(f"its header is damaged: {error}") from error
        if not set(sizes) <= set(ANSWER) or any(size < 0 for size in sizes.values()):
            raise refused(f"it brings {', '.join(sizes)}, expected {', '.join(ANSWER)}")
        for name, size in sizes.items():
            with (answer / name).open("wb") as sink:
                left = size
                while left and (block := stream.read(min(left, 1 << 20))):
                    sink.write(block)
                    left -= len(block)
            if left:
                raise refused(f"{name} ended {left} bytes early")
    if status is not None and type(status) is not int:
        raise refused(f"its status is {status!r}")
    return status
