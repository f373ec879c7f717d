"""Hostile and broken inputs: each gives one clear error or a correct result.

Never a traceback, never a half-written file, and nothing that a file brings is ever run.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small
import torch
from onnx import TensorProto, helper, numpy_helper
from report_runs import full_run
from safetensors.torch import save, save_file
from terminal import SMALL, Ended, Terminal

from edgeprune.records.run import to_json

KNOWN_CODES = {0, 1, 2, 3, 4, 5, 6}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)


def clear(ended: Ended, *codes: int) -> None:
    """One error in one line, or a result; nothing half-written."""
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert "unexpected" not in ended.err, ended.err
    assert ended.code in (codes or KNOWN_CODES), (ended.code, ended.err)
    if ended.code in (2, 3, 4):
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, ended.err
    assert not list(Path().rglob("*.part"))


class Payload:
    """What a hostile pickle does when it is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


# ------------------------------------------------------------------------------------ run.json

GOOD = json.dumps(to_json(full_run()))
RECORDS: dict[str, bytes] = {
    "empty": b"",
    "space": b" \n",
    "cut early": GOOD[:20].encode(),
    "cut late": GOOD[:-20].encode(),
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "text": b'"run"',
    "not text": bytes(range(256)),
    "utf-16": GOOD.encode("utf-16"),
    "NaN": GOOD.replace("0.6102", "NaN").encode(),
    "Infinity": GOOD.replace("0.6102", "Infinity").encode(),
    "huge integer": GOOD.replace("266610", "9" * 5000).encode(),
    "overflowing float": GOOD.replace("0.6102", "1e999").encode(),
    "deep": b"[" * 200_000,
    "deep within": GOOD.replace('"value": "gram"', '"value": ' + "[" * 50_000 + "]" * 50_000).encode(),
    "other version": GOOD.replace('"schema_version": 1', '"schema_version": 99').encode(),
    "version as text": GOOD.replace('"schema_version": 1', '"schema_version": "1"').encode(),
    "pickle": pickle.dumps(Payload()),
    **{
        f"{key} is text": json.dumps({**json.loads(GOOD), key: "x"}).encode()
        for key in (
            "model",
            "environment",
            "settings",
            "plan",
            "artifacts",
            "terms",
            "validations",
            "verdict",
        )
    },
    **{
        f"{key} is missing": json.dumps({k: v for k, v in json.loads(GOOD).items() if k != key}).encode()
        for key in ("model", "environment", "schema_version")
    },
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_one_error(name: str, terminal: Terminal) -> None:
    Path("r").mkdir()
    (Path("r") / "run.json").write_bytes(RECORDS[name])
    for command in (
        ["gate", "r", "--limit", "params_ratio=1"],
        ["lint", "r"],
        ["verify", "r"],
        ["report", "r"],
    ):
        clear(terminal(*command), 2)
    assert not Path("r/report.html").exists()
    assert not Path("pwned").exists()


LIMITS = {
    "unknown": {"latncy": 1},
    "text": "strict",
    "negative": {"observed_error": -1},
    "a level": {"level": {"observed_error": "fatal"}},
    "a metric that runs code": {"metrics": [{"name": "x", "function": "os:getcwd", "at_most": 1}]},
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_in_a_record_are_checked_and_run_nothing(name: str, terminal: Terminal) -> None:
    record = json.loads(GOOD)
    record["settings"].append({"name": "limits", "value": LIMITS[name], "origin": "flag"})
    Path("run.json").write_text(json.dumps(record))
    ended = terminal("gate", ".")
    clear(ended, 2, 5)
    if "runs code" in name:
        assert ended.code == 5
        assert "not computed" in ended.out


# ---------------------------------------------------------------------------------------- TOML

TOML = {
    "empty": (b"", 0),
    "cut": (b'model = "m', 2),
    "not text": (b"\xff\xfe\x00", 2),
    "a NUL": (b'model = "a\0b"', 2),
    "unknown key": (b"methd = 1", 2),
    "twice": (b"seed = 1\nseed = 2", 2),
    "wrong type": (b"seed = true", 2),
    "a float seed": (b"seed = 1.5", 2),
    "nan": (b"keep = nan", 2),
    "inf": (b"keep = inf", 2),
    "negative": (b"seed = -1", 2),
    "two budgets": (b"keep = 0.5\nmacs = 0.5", 2),
    "deep": (b"a = " + b"[" * 5000 + b"]" * 5000, 2),
    "a table for text": (b"[model]\nx = 1", 2),
    "a level of nothing": (b'[limits.level]\nx = "warn"', 2),
    "unicode": ('exclude = ["グループ"]'.encode(), 0),
    "a date": (b"seed = 2020-01-01", 2),
    "huge": (b"seed = " + b"9" * 5000, 2),
    "beyond int64": (b"seed = 99999999999999999999", 0),
}


@pytest.mark.parametrize("name", TOML)
def test_a_broken_configuration_is_one_error(name: str, terminal: Terminal) -> None:
    content, code = TOML[name]
    Path("edgeprune.toml").write_bytes(content)
    clear(terminal("config"), code)
    clear(terminal("config", "--check", "edgeprune.toml"), code)


@pytest.mark.parametrize(
    "content",
    [
        "name = 1",
        "[runtime]\nprovider = 7",
        'name = "x"\nextends = "x"',
        "[[[",
        "",
        'transport = "carrier-pigeon"',
    ],
)
def test_a_broken_target_is_one_error(content: str, terminal: Terminal) -> None:
    Path("board.toml").write_text(content)
    clear(terminal("targets", "./board.toml"), 0, 2)


# ------------------------------------------------------------------------------- weights, samples


def weights(name: str) -> bytes:
    good = save(small.build().state_dict())
    header = {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}

    def made(about: Any, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
        text = about if isinstance(about, bytes) else json.dumps(about).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    nan = {key: value * float("nan") for key, value in small.build().state_dict().items()}
    inf = {key: torch.full_like(value, float("inf")) for key, value in small.build().state_dict().items()}
    return {
        "empty": b"",
        "seven bytes": b"1234567",
        "cut": good[: len(good) // 2],
        "cut header": good[:30],
        "huge header": struct.pack("<Q", 2**63) + good[8:],
        "garbage header": made(b"{" * 40),
        "offsets beyond": made({"x": {**header["x"], "data_offsets": [0, 10**12]}}),
        "negative shape": made({"x": {**header["x"], "shape": [-4]}}),
        "huge shape": made({"x": {**header["x"], "shape": [2**62, 2**62]}}),
        "unknown dtype": made({"x": {**header["x"], "dtype": "F7"}}),
        "other names": made(header),
        "a pickle": pickle.dumps(Payload()),
        "a zip": b"PK\x03\x04" + b"\0" * 60,
        "NaN": save(nan),
        "infinite": save(inf),
        "trailing": good + b"more",
    }[name]


WEIGHTS = (
    "empty", "seven bytes", "cut", "cut header", "huge header", "garbage header", "offsets beyond", "negative shape",
    "huge shape", "unknown dtype", "other names", "a pickle", "a zip", "NaN", "infinite", "trailing",
)  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_broken_weights_are_one_error(name: str, terminal: Terminal) -> None:
    Path("w.safetensors").write_bytes(weights(name))
    clear(terminal("inspect", f"{SMALL}:build", "--input", "1x8", "--weights", "w.safetensors"), 2)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "pkl"])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_pickle_never_runs_its_payload(suffix: str, trusted: bool, terminal: Terminal) -> None:
    torch.save({"weight": Payload()}, f"w.{suffix}")
    more = ["--trust-pickle"] if trusted else []
    clear(terminal("inspect", f"{SMALL}:build", "--input", "1x8", "--weights", f"w.{suffix}", *more), 2)
    assert not Path("pwned").exists()


def test_an_exported_program_is_not_read_without_consent(terminal: Terminal) -> None:
    with zipfile.ZipFile("m.pt2", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Payload()))
    clear(terminal("inspect", "m.pt2", "--input", "1x8"), 2)
    assert not Path("pwned").exists()


def npz(name: str) -> bytes:
    good = np.random.default_rng(0).random((16, 8), np.float32)
    stream = io.BytesIO()
    arrays = {
        "NaN": good * np.nan,
        "infinite": good + np.inf,
        "zero samples": good[:0],
        "zero wide": good[:, :0],
        "other width": good[:, :5],
        "text": np.array([["a"] * 8] * 4),
        "complex": good.astype(np.complex64),
        "a scalar": np.float32(3.0),
        "dates": np.array([["2020-01-01"] * 8] * 4, "datetime64[D]"),
        "one sample": good[:1],
        "bytes": np.zeros((4, 8), "S3"),
        "alike": np.zeros((16, 8), np.float32),
    }
    if name in arrays:
        np.savez(stream, x=arrays[name])
    elif name == "objects":
        np.savez(stream, x=np.array([[Payload()] * 8] * 4, dtype=object))
    elif name == "no arrays":
        np.savez(stream)
    elif name == "strange names":
        np.savez(stream, **{"グ \n/..": good})
    elif name == "only fit":
        np.savez(stream, fit=good)
    elif name == "cut":
        np.savez(stream, x=good)
        return stream.getvalue()[:200]
    elif name == "huge header":
        with zipfile.ZipFile(stream, "w") as archive:
            head = (
                b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8), }".ljust(117) + b"\n"
            )
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    elif name == "code in the header":
        with zipfile.ZipFile(stream, "w") as archive:
            head = b"{'descr': __import__('os').mkdir('pwned'), 'shape': (1,)}".ljust(117) + b"\n"
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    elif name == "a pickle":
        return pickle.dumps(Payload())
    return stream.getvalue()


SAMPLES = (
    "empty file", "cut", "a pickle", "objects", "no arrays", "strange names", "only fit", "huge header",
    "code in the header", "NaN", "infinite", "zero samples", "zero wide", "other width", "text", "complex", "a scalar",
    "dates", "one sample", "bytes", "alike",
)  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_broken_samples_are_one_error(name: str, terminal: Terminal) -> None:
    Path("d.npz").write_bytes(npz(name))
    ended = terminal("inspect", f"{SMALL}:build", "--input", "1x8", "--calibration", "d.npz")
    clear(ended, 2)
    assert not Path("pwned").exists()


# ---------------------------------------------------------------------------------------- ONNX


def network(**changes: Any) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, changes.get("shape", [1, 2]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", changes.get("opset", 20))])


def onnx_file(name: str) -> bytes:
    model = network()
    good: bytes = model.SerializeToString()
    if name == "cut":
        return good[:-15]
    if name == "lfs pointer":
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    if name == "a pickle":
        return pickle.dumps(Payload())
    if name == "a cycle":
        model.graph.node.append(helper.make_node("Relu", ["z"], ["x2"]))
        model.graph.node.append(helper.make_node("Relu", ["x2"], ["z"]))
    if name == "unknown operation":
        model.graph.node[0].op_type = "Sorcery"
    if name == "negative dims":
        model.graph.initializer[0].dims[:] = [-2, 3]
    if name == "huge dims":
        model.graph.initializer[0].dims[:] = [2**40, 2**20]
    if name == "too few bytes":
        model.graph.initializer[0].raw_data = b"\0"
    if name == "future opset":
        return network(opset=9999).SerializeToString()  # type: ignore[no-any-return]
    if name == "zero input":
        return network(shape=[0, 2]).SerializeToString()  # type: ignore[no-any-return]
    if name == "huge input":
        return network(shape=[2**40, 2]).SerializeToString()  # type: ignore[no-any-return]
    if name == "weights elsewhere":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../../etc/passwd"
    return b"" if name == "empty" else model.SerializeToString()


ONNX = (
    "empty", "cut", "lfs pointer", "a pickle", "a cycle", "unknown operation", "negative dims", "huge dims",
    "too few bytes", "future opset", "zero input", "huge input", "weights elsewhere",
)  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_a_broken_onnx_file_is_told_by_the_lint(name: str, terminal: Terminal) -> None:
    Path("m.onnx").write_bytes(onnx_file(name))
    ended = terminal("lint", "m.onnx")
    clear(ended, 0, 1)
    if name not in ("future opset", "zero input", "huge input"):
        assert ended.code == 1, ended.out
    assert not Path("pwned").exists()


@pytest.mark.slow  # each starts a process
@pytest.mark.parametrize("name", ONNX)
def test_a_broken_onnx_file_is_one_error_to_the_simplifier(name: str, terminal: Terminal) -> None:
    Path("m.onnx").write_bytes(onnx_file(name))
    clear(terminal("simplify", "m.onnx", "-o", "s.onnx", "--time-limit", "20"), 0, 2, 3, 4, 5)
    assert not Path("pwned").exists()


# ------------------------------------------------------------------------------- what is typed

INPUTS = (
    "",
    "x",
    "1x",
    "0x3",
    "-1x8",
    "1x8:",
    "1x8:float7",
    "１x８",
    "1x8\n",
    "1x99999999999999999999",
    "100000x100000x1000",
    "1x8x",
    "=1x8",
    "a=b=1x8",
    "1.5x8",
)


@pytest.mark.parametrize("spec", INPUTS)
def test_garbled_inputs_are_one_error(spec: str, terminal: Terminal) -> None:
    clear(terminal("inspect", f"{SMALL}:build", "--input", spec), 0, 2)


MODELS = (
    "",
    ":",
    ":build",
    "nowhere:build",
    "os:getcwd",
    "os:path",
    "small.py",
    "./:x",
    "グ.py:build",
    "..:x",
    "x" * 5000 + ".py:f",
    "json:loads",
    "broken.py:f",
    "exits.py:f",
    "loops.pt2",
)


@pytest.mark.parametrize("spec", MODELS)
def test_garbled_models_are_one_error(spec: str, terminal: Terminal) -> None:
    Path("broken.py").write_text("def f(:\n")
    Path("exits.py").write_text("raise SystemExit(7)\n")
    clear(terminal("inspect", spec, "--input", "1x8"), 2)


FLAGS = (
    ["--keep", "nan"], ["--keep", "-1"], ["--keep", "1e400"], ["--samples", "0"], ["--samples", "-3"], ["--multiple", "0"],
    ["--confidence", "1"], ["--quantile", "2"], ["--domain", "nan,1"], ["--domain", "1,1"], ["--opset", "0"],
    ["--seed", "-1"], ["--limit", "observed_error=nan"], ["--limit", "observed_error=-1"], ["--limit", "observed_error"],
    ["--limit", "p95_ms=1:fatal"], ["--metric", "x"], ["--metric", "x=nowhere:f<=1"], ["--metric", "x=m.py:f<=y"],
    ["--target", ""], ["--target", "../../etc/passwd"], ["--method", ""], ["--exclude", "*"], ["--calibration", "/dev/null"],
    ["--weights", "/"], ["--config", "/"], ["--config", "/dev/null/x"],
)  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_flags_out_of_range_are_one_error_and_write_nothing(flags: list[str], terminal: Terminal) -> None:
    ended = terminal("run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", "r", *flags)
    clear(ended, 2)
    assert not Path("r").exists()


# --------------------------------------------------------------------------- folders and disks


@pytest.mark.parametrize(
    "name", ["a b", "ünïcode 漢", "new\nline", "-dash", "quo'te\"s", "$HOME;rm", "..a", "%20"]
)
def test_strange_paths_work(name: str, terminal: Terminal) -> None:
    folder = Path(name)
    folder.mkdir()
    full_run().save(folder)
    files = {flag: folder / f"x.{flag}" for flag in ("junit", "sarif", "summary", "openmetrics")}
    options = [item for flag, path in files.items() for item in (f"--{flag}", path)]
    clear(terminal("gate", "--limit", "params_ratio=1", "--github", *options, "--", folder), 0)
    assert all(path.stat().st_size for path in files.values())
    clear(terminal("report", "--", folder), 0)


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_places_that_cannot_be_written_are_one_error(place: str, terminal: Terminal) -> None:
    Path("file").write_text("mine")
    full_run().save(Path())
    below = f"{place}/j.xml" if place != "x" * 300 else place
    clear(terminal("gate", ".", "--limit", "params_ratio=1", "--junit", below), 2)
    run = terminal("run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", place)
    clear(run, 2)
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize(
    "command",
    [
        ["report", "."],
        ["gate", ".", "--limit", "params_ratio=1", "--sarif", "x.sarif"],
        ["init", "MODEL", "--input", "1x8"],
    ],
)
def test_a_disk_that_refuses_is_one_error(
    code: int, command: list[str], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_run().save(Path())

    def refused(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "write_bytes", refused)
    clear(terminal(*[f"{SMALL}:build" if word == "MODEL" else word for word in command]), 2)
    assert {path.name for path in Path().iterdir()} == {"run.json"}


def test_two_runs_into_one_folder_are_one_error(terminal: Terminal) -> None:
    Path("r").mkdir()
    with (Path("r") / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        ended = terminal("run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "-o", "r")
    clear(ended, 2)
    assert "another run is writing there" in ended.err
    assert [path.name for path in Path("r").iterdir()] == [".lock"]


@pytest.mark.parametrize("package", ["model_signing", "sklearn", "optuna", "onnxsim"])
def test_a_missing_package_is_one_error(
    package: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    full_run().save(Path())
    Path("key.pem").write_text("")
    clear(terminal("sign", ".", "--key", "key.pem"), 2)
    clear(terminal("doctor"), 0, 2)


def test_weights_of_another_model_do_not_load(terminal: Terminal) -> None:
    save_file({"0.weight": torch.zeros(3, 3)}, "w.safetensors")
    clear(terminal("inspect", f"{SMALL}:build", "--input", "1x8", "--weights", "w.safetensors"), 2)


def test_there_are_far_more_than_a_hundred_of_them() -> None:
    tables = (RECORDS, LIMITS, TOML, WEIGHTS, SAMPLES, ONNX, INPUTS, MODELS, FLAGS)
    assert sum(map(len, tables)) >= 150
    assert all(len(set(map(str, table))) == len(table) for table in tables)
