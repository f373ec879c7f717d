"""The browser transport, in a real headless Chromium."""

from __future__ import annotations

import dataclasses
import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_nets import conv_net, expected, linear_relu, samples, save
from wanted import missing

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.profiles import Target, find_target
from edgeprune.progress import silent
from edgeprune.runtimes import probe
from edgeprune.runtimes.browser import Browser
from edgeprune.runtimes.browser.server import Desk, served
from edgeprune.runtimes.jobs import OutputsAnswer, read_outputs, read_pairs, read_trace, write_job
from edgeprune.runtimes.local import Local
from edgeprune.runtimes.places import filled
from edgeprune.stages.latency_table import Layer, cost_table

WASM = find_target("browser-wasm")


@pytest.fixture
def target() -> Target:
    browser, package = WASM.connection["browser"], WASM.connection["package"]
    assert isinstance(package, str)
    if shutil.which(browser[0]) is None:
        missing(f"{browser[0]} is not installed")
    folder = Path(filled(package, {}, "test"))
    if not folder.is_dir():
        missing(f"onnxruntime-web is not in {folder}")
    return WASM


def with_threads(target: Target, intra: int) -> Target:
    return dataclasses.replace(target, threads=dataclasses.replace(target.threads, intra=intra))


def run(folder: Path, target: Target, model: Path, *inputs: np.ndarray) -> OutputsAnswer:
    job = write_job(folder / "job", target, "outputs", {"model": model}, inputs)
    return read_outputs(job, Browser().run(job.folder, target, 60), target)


def test_a_net_drifts_by_rounding_only(tmp_path: Path, target: Target) -> None:
    inputs = np.random.default_rng(0).standard_normal((21, 3, 16, 16)).astype(np.float32)
    model = conv_net(tmp_path / "m.onnx")
    there = run(tmp_path / "web", target, model, inputs)  # 16 at a time: the last batch is filled up
    local = find_target("cpu-1t")
    job = write_job(tmp_path / "here", local, "outputs", {"model": model}, (inputs,))
    here = read_outputs(job, Local().run(job.folder, local, 60), local)
    difference = np.abs(there.outputs[0] - here.outputs[0]).max()
    assert 0 < difference <= 2e-6 * np.abs(here.outputs[0]).max()
    assert "Chrome" in there.ran.environment["browser"]
    assert there.ran.environment["isolated"] is True
    assert there.peak_mb > 20
    assert there.ran.placement == {"wasm": sum(there.ran.placement.values())}
    assert sum(there.ran.placement.values()) >= 2
    assert not there.ran.warnings


def test_two_threads_are_allowed(tmp_path: Path, target: Target) -> None:
    answer = run(tmp_path, with_threads(target, 2), linear_relu(tmp_path / "m.onnx"), samples(6))
    np.testing.assert_allclose(answer.outputs[0], expected(samples(6)), rtol=1e-5, atol=1e-5)
    assert answer.ran.environment["threads"] == 2


def test_integers_and_several_inputs(tmp_path: Path, target: Target) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["row"]),
        helper.make_node("Add", ["row", "x"], ["y"]),
    ]
    described = [("x", TensorProto.FLOAT, ["n", 2]), ("ids", TensorProto.INT64, ["n"])]
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = save(tmp_path / "m.onnx", nodes, described, ["n", 2], {"table": table})
    x, ids = np.ones((3, 2), np.float32), np.array([3, 0, 1])
    np.testing.assert_array_equal(run(tmp_path, target, model, x, ids).outputs[0], table[ids] + 1)
    with pytest.raises(TargetUnavailable, match=r"takes 2 inputs \(x, ids\), 1 were given"):
        run(tmp_path, target, model, x)
    with pytest.raises(TargetUnavailable, match=r"'ids' takes whole numbers, 3\.5 was given"):
        run(tmp_path, target, model, x, (ids + 0.5).astype(np.float32))


def test_pairs_are_timed_in_the_page(tmp_path: Path, target: Target) -> None:
    quick = dataclasses.replace(
        target, measure=dataclasses.replace(target.measure, pairs=12, launches_min=2, warm_up=3)
    )
    model = conv_net(tmp_path / "m.onnx")
    inputs = np.zeros((2, 3, 16, 16), np.float32)
    models = {"original": model, "pruned": model}
    job = write_job(tmp_path / "job", quick, "pairs", models, (inputs,), seed=4, launch_s=10)
    answer = read_pairs(job, Browser().run(job.folder, quick, 60), quick)
    assert answer.pairs.shape == answer.control.shape == (12, 2)
    order = json.loads((job.folder / "result.json").read_text())["order"]
    assert sorted(order) == ["control-0", "control-1", "pairs-0", "pairs-1"]


def test_each_operation_is_timed_in_the_page(tmp_path: Path, target: Target) -> None:
    """From the trace that onnxruntime-web writes to the console."""
    model = conv_net(tmp_path / "m.onnx")
    inputs = np.zeros((2, 3, 16, 16), np.float32)
    job = write_job(tmp_path / "job", target, "trace", {"model": model}, (inputs,), launch_s=5)
    rows = read_trace(job, Browser().run(job.folder, target, 60), target)
    assert {row.provider for row in rows} == {"wasm"}
    assert {"Conv", "FusedConv"} & {row.operation for row in rows}
    assert [row.us for row in rows] == sorted((row.us for row in rows), reverse=True)
    assert rows[0].us > 0


def test_layers_are_timed_in_the_page(tmp_path: Path, target: Target) -> None:
    """What a budget of time in a browser is priced by."""
    layer = Layer("conv", 16, 16, (8, 8), (3, 3), (1, 1), (1, 1))
    table = cost_table(
        [layer], target, multiple=8, cache=tmp_path / "cache", work=tmp_path / "work", progress=silent
    )
    assert table.ms
    assert all(ms > 0 for ms in table.ms.values())
    assert table.cost_ms(layer, 16, 16) > 0


def test_it_can_be_probed(tmp_path: Path, target: Target) -> None:
    answer = probe(target, tmp_path / "job")
    assert answer.version
    assert answer.placement == {"wasm": 1}


def test_a_corrupt_model_is_told(tmp_path: Path, target: Target) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(TargetUnavailable, match=r"browser-wasm: .*(load model|protobuf|ERROR_CODE)"):
        run(tmp_path, target, tmp_path / "m.onnx", samples(2))


def test_a_provider_whose_nodes_cannot_be_counted_is_refused(tmp_path: Path, target: Target) -> None:
    runtime = dataclasses.replace(target.runtime, provider="webgpu")
    with pytest.raises(TargetUnavailable, match="only the provider 'wasm' can be trusted, not webgpu"):
        probe(dataclasses.replace(target, runtime=runtime), tmp_path / "job")


def test_another_model_than_was_sent_is_found_out(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page hashes the very bytes that it ran."""
    other = linear_relu(tmp_path / "other.onnx", seed=9).read_bytes()
    get = Desk.get
    monkeypatch.setattr(
        Desk, "get", lambda self, name: other if name.startswith("models/") else get(self, name)
    )
    with pytest.raises(TargetUnavailable, match="what ran there is not what was sent"):
        run(tmp_path, target, linear_relu(tmp_path / "m.onnx"), samples(2))


# ----------------------------------------------------------------------------------- no browser


def connected(**connection: Any) -> Target:
    return dataclasses.replace(WASM, connection={**WASM.connection, **connection})


@pytest.fixture
def package(tmp_path: Path) -> str:
    (tmp_path / "web" / "dist").mkdir(parents=True)
    (tmp_path / "web" / "dist" / "ort.wasm.min.mjs").write_text("export {}")
    return str(tmp_path / "web")


@pytest.mark.parametrize(
    ("browser", "limit_s", "message"),
    [
        (("/nowhere/chromium", "{url}"), 60, "/nowhere/chromium cannot be started"),
        (("sh", "-c", "echo no display; exit 4"), 60, "the browser ended with status 4 .*no display"),
        (("sleep", "60"), 0.3, r"the page did not finish within 0\.3 s and was closed"),
    ],
)
def test_a_browser_that_fails_is_told(
    tmp_path: Path, package: str, browser: tuple[str, ...], limit_s: float, message: str
) -> None:
    where = connected(browser=browser, package=package)
    job = write_job(tmp_path / "job", where, "probe", {})
    with pytest.raises(TargetUnavailable, match=message):
        Browser().run(job.folder, where, limit_s)


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        TargetUnavailable, match="npm install --ignore-scripts --prefix /nowhere onnxruntime-web"
    ):
        probe(connected(package="/nowhere/node_modules/onnxruntime-web"), tmp_path / "job")


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({"browser": "chromium"}, "browser: must be a list"),
        ({"browser": ("x", "{adress}")}, "there is no '{adress}' to fill in"),
        ({"host": "x"}, "takes browser .a list. and package"),
        ({"package": ("x",)}, "takes browser .a list. and package"),
    ],
)
def test_a_connection_is_checked(
    tmp_path: Path, package: str, connection: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        probe(connected(**{"package": package, **connection}), tmp_path / "job")


# ----------------------------------------------------------------------------------- the server


def status(url: str, data: bytes | None = None, host: str | None = None) -> int:
    request = urllib.request.Request(url, data, {"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_server_gives_a_job_and_nothing_else(tmp_path: Path) -> None:
    job = write_job(
        tmp_path / "job", WASM, "outputs", {"model": linear_relu(tmp_path / "m.onnx")}, (samples(3),)
    )
    (tmp_path / "dist").mkdir()
    (tmp_path / "secret.mjs").write_text("secret")
    desk = Desk(job.folder, tmp_path / "dist", lambda: 1.0)
    with served(desk) as url:
        root = url.rsplit("/", 2)[0]
        for name in ("", "job.json", "agent.mjs", "inputs.json", "inputs/0", "models/model/m.onnx", "peak"):
            assert status(url + name) == 200, name
        for name in (
            "ort/../secret.mjs", "ort/%2e%2e/secret.mjs", "models/model/../../job.json", "inputs/1",
            "inputs.npz", "agent.log", "ort/x.js",
        ):  # fmt: skip
            assert status(url + name) == 404, name
        assert status(f"{root}/guess/job.json") == 404
        assert status(f"{root}/job.json") == 404
        assert status(url, host="evil.example") == 404  # a name that was made to point here
        assert status(url + "outputs/0", b"1234") == 200
        assert status(url + "../x", b"1234") == 404
        assert status(url + "outputs/../x", b"1234") == 404
        assert not desk.done.is_set()
        assert status(url + "result", b"{}") == 200
        assert desk.done.is_set()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[", "cannot be read"),
        ('{"arrays": [{"dtype": "|O", "shape": [1]}]}', "an array of |O"),
        ('{"arrays": [{"dtype": "<f4", "shape": [3]}]}', "cannot reshape"),
        ('{"arrays": [{"dtype": "<f4", "shape": [-1]}]}', "an array of <f4"),
        ('{"arrays": [{"dtype": "<f4", "shape": [2]}, {}]}', "cannot be read"),
        ("{}", "does not answer a 'outputs' job"),
    ],
)
def test_an_unsound_answer_is_refused(tmp_path: Path, answer: str, message: str) -> None:
    from edgeprune.runtimes.browser.transport import _unpack

    job = write_job(
        tmp_path / "job", WASM, "outputs", {"model": linear_relu(tmp_path / "m.onnx")}, (samples(2),)
    )
    (job.folder / "answer.json").write_text(answer)
    (job.folder / "output_0.raw").write_bytes(bytes(8))

    def believe() -> None:
        _unpack(job.folder, WASM)
        read_outputs(job, job.folder, WASM)

    with pytest.raises(TargetUnavailable, match=message):
        believe()
