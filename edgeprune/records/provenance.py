"""Whether the files of a run folder are those that the run wrote, and whose run it is.

`SHA256SUMS` lists the digest of every file that the run stands on, in the form that
`sha256sum --check` reads; `report.html` is made from them and is left out. Digests find damage, and
files of another run; against someone who can write the folder only a signature helps.

Sources: FIPS 180-4 (SHA-256); OpenSSF Model Signing 1.0 for the signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UsageError
from edgeprune.files import sha256_of, write_text
from edgeprune.records.run import Run, to_json

SUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
UNSIGNED = ("report.html", SIGNATURE, ".lock")
LISTED = (
    "run.json",
    "plan.json",
    "search.json",
    "original.onnx",
    "pruned.onnx",
    "masked.onnx",
    "pruned.safetensors",
    "counterexample.npz",
    "original.onnx.data",
    "pruned.onnx.data",
    "masked.onnx.data",
    "logs/reference.npz",
)
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    outcome: Literal["ok", "wrong", "unknown"]
    words: str


def write_digests(folder: Path) -> None:
    """Write `SHA256SUMS`.

    Raises:
        StorageError: it cannot be written.
    """
    kept = (path for part in ("outputs", "latency") for path in (folder / "logs" / part).glob("*.npz"))
    measured = sorted(path.relative_to(folder).as_posix() for path in kept)
    names = [name for name in (*LISTED, *measured) if (folder / name).is_file()]
    write_text(folder / SUMS, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))


def verify(folder: Path) -> tuple[Finding, ...]:
    """Recheck every digest that a run folder states.

    Raises:
        UsageError: there is no run.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder; give the folder of a run.")
    run = Run.load(folder)
    return (*_listed(folder), *_artifacts(folder, run), *_metadata(folder, run))


def _listed(folder: Path) -> Iterator[Finding]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        yield Finding(SUMS, "unknown", "the run is not finished, or was made by an older edgeprune")
        return
    except (OSError, ValueError) as error:
        yield Finding(SUMS, "wrong", f"cannot be read ({error})")
        return
    for line in lines:
        found = _LINE.fullmatch(line)
        inside = found is not None and not Path(found[2]).is_absolute() and ".." not in Path(found[2]).parts
        if found is None or not inside:
            yield Finding(SUMS, "wrong", f"has a malformed line: {line[:100]!r}")
            continue
        yield _digest(folder, found[2], found[1], SUMS)
    absent = [n for n in ("run.json", "pruned.onnx") if not any(line.endswith(f"  {n}") for line in lines)]
    for name in absent:
        yield Finding(SUMS, "wrong", f"does not list {name}")


def _digest(folder: Path, name: str, expected: str, source: str) -> Finding:
    path = folder / name
    if not path.is_file():
        return Finding(name, "wrong", f"is missing; {source} lists it")
    try:
        found = sha256_of(path)
    except OSError as error:
        return Finding(name, "wrong", f"cannot be read ({error.strerror})")
    if found != expected:
        return Finding(name, "wrong", f"has digest {found[:12]}…, {source} says {expected[:12]}…")
    return Finding(name, "ok", f"sha256 {found[:12]}… as in {source}")


def _artifacts(folder: Path, run: Run) -> Iterator[Finding]:
    """The ONNX files, as the record itself states them."""
    for artifact in run.artifacts.values():
        if Path(artifact.path).is_absolute() or ".." in Path(artifact.path).parts:
            yield Finding(artifact.path, "wrong", "run.json names a file outside the folder")
            continue
        yield _digest(folder, artifact.path, artifact.sha256, "run.json")


def _metadata(folder: Path, run: Run) -> Iterator[Finding]:
    """What the pruned file says about where it comes from."""
    import onnx

    from edgeprune.records.folder import key_of

    path = folder / "pruned.onnx"
    if "pruned" not in run.artifacts or not path.is_file():
        return
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        yield Finding("pruned.onnx", "wrong", f"is no ONNX model ({type(error).__name__})")
        return
    said = {entry.key: entry.value for entry in model.metadata_props}
    expected = {
        "edgeprune.source_weights_sha256": run.model.weights_sha256,
        "edgeprune.plan_sha256": key_of(to_json(run.plan)),
    }
    for key, value in expected.items():
        same = said.get(key) == value
        words = f"{key} is {value[:12]}… as in run.json" if same else f"{key} is not that of run.json"
        yield Finding("pruned.onnx", "ok" if same else "wrong", words)


# --------------------------------------------------------------------------------- signatures


def _signing() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise UsageError(
            f"signatures need the package model-signing, which cannot be imported ({error}); "
            "install it with: pip install 'edgeprune[sign]'"
        ) from error
    return model_signing


def sign(folder: Path, private_key: Path) -> Path:
    """Sign every file of a run but the report, with an elliptic-curve key (PEM).

    Raises:
        UsageError: the package model-signing is missing, or the key cannot be used.
    """
    folder = folder.resolve()  # the tool takes ignored paths for what they are only where they are absolute
    tool, signature = _signing(), folder / SIGNATURE
    Run.load(folder)
    if not private_key.is_file():
        raise UsageError(f"--key {private_key}: there is no such file; give a private key in PEM.")
    try:
        config = tool.signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_hashing(tool, folder)).sign(folder, signature)
    except Exception as error:  # that library raises what its parts raise
        raise UsageError(f"--key {private_key}: signing failed ({_first_line(error)}).") from error
    return signature


def verify_signature(folder: Path, public_key: Path) -> Finding:
    """Whether the signature in a run folder is by a key, and about these very files.

    Raises:
        UsageError: the package model-signing is missing, or there is no such key.
    """
    folder = folder.resolve()  # the tool takes ignored paths for what they are only where they are absolute
    tool, signature = _signing(), folder / SIGNATURE
    if not public_key.is_file():
        raise UsageError(f"--key {public_key}: there is no such file; give a public key in PEM.")
    if not signature.is_file():
        return Finding(SIGNATURE, "wrong", "is missing: the run is not signed")
    try:
        config = tool.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(tool, folder)).verify(folder, signature)
    except Exception as error:
        return Finding(SIGNATURE, "wrong", f"does not hold: {_first_line(error)}")
    return Finding(SIGNATURE, "ok", f"every file is as it was signed with the key of {public_key}")


def _hashing(tool: Any, folder: Path) -> Any:
    return tool.hashing.Config().set_ignored_paths(
        paths=[folder / name for name in UNSIGNED], ignore_git_paths=True
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
