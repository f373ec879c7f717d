"""The agent in real processes, on tiny models."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_nets import IN, expected, linear_relu, samples, save, target

from edgeprune.errors import ConfigError, TargetUnavailable, UsageError
from edgeprune.files import sha256_of
from edgeprune.profiles import find_target
from edgeprune.runtimes import RUNTIMES, jobs, local, probe
from edgeprune.runtimes.agent import sessions
from edgeprune.runtimes.agent.work import PROBE
from edgeprune.runtimes.jobs import OutputsAnswer, read_outputs, read_pairs, write_job
from edgeprune.runtimes.local import Local
from edgeprune.runtimes.shipping import write_agent


def run_outputs(folder: Path, model: Path, *inputs: np.ndarray, where=None) -> OutputsAnswer:
    where = where or target()
    job = write_job(folder / "job", where, "outputs", {"model": model}, inputs)
    return read_outputs(job, Local().run(job.folder, where, 60), where)


def agent_of(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Put another program in the agent's place."""
    script = folder / "agent.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.setattr(local, "write_agent", lambda _: script)


# ------------------------------------------------------------------------------------ outputs


@pytest.mark.parametrize("batch_outputs", [4, 64])
def test_outputs_come_back_in_order(tmp_path: Path, batch_outputs: int) -> None:
    """Ten samples in batches of four: the last batch is filled up and cut again."""
    where = target(measure={"batch_outputs": batch_outputs})
    answer = run_outputs(tmp_path, linear_relu(tmp_path / "m.onnx"), samples(10), where=where)
    np.testing.assert_allclose(answer.outputs[0], expected(samples(10)), rtol=1e-5, atol=1e-5)
    assert answer.outputs[0].dtype == np.float32


def test_the_placement_is_proved(tmp_path: Path) -> None:
    answer = run_outputs(tmp_path, linear_relu(tmp_path / "m.onnx"), samples(2))
    assert answer.ran.placement == {"CPUExecutionProvider": 3}
    assert answer.ran.version == onnxruntime.__version__
    assert answer.load_ms > 0
    assert answer.first_ms > 0


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    model = linear_relu(tmp_path / "m.onnx", batch=3)
    answer = run_outputs(tmp_path, model, samples(7))
    np.testing.assert_allclose(answer.outputs[0], expected(samples(7)), rtol=1e-5, atol=1e-5)


def test_several_inputs_of_several_types(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["row"]),
        helper.make_node("Add", ["row", "x"], ["y"]),
    ]
    inputs = [("x", TensorProto.FLOAT, ["n", 2]), ("ids", TensorProto.INT64, ["n"])]
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    model = save(tmp_path / "m.onnx", nodes, inputs, ["n", 2], {"table": table})
    x, ids = np.ones((3, 2), np.float32), np.array([2, 0, 3])
    np.testing.assert_array_equal(run_outputs(tmp_path, model, x, ids).outputs[0], table[ids] + 1)
    with pytest.raises(
        TargetUnavailable, match=r"'ids' is tensor\(int64\), the values given are no integers"
    ):
        run_outputs(tmp_path, model, x, ids + 0.5)
    with pytest.raises(TargetUnavailable, match=r"takes 2 inputs \(x, ids\), 1 were given"):
        run_outputs(tmp_path, model, x)


def test_peak_memory_is_the_agents_own(tmp_path: Path) -> None:
    """Memory of the process that starts the agent does not count, nor do samples beyond a batch."""
    ballast = np.ones(60 << 20)  # 480 MiB, touched
    inputs = samples(1 << 20)  # 24 MiB
    model = linear_relu(tmp_path / "m.onnx")
    small = run_outputs(tmp_path, model, samples(4)).peak_mb
    where = target(measure={"batch_outputs": 1 << 18})
    large = run_outputs(tmp_path, model, inputs, where=where).peak_mb
    assert ballast[-1] == 1
    assert 10 < small < 400
    assert abs(large - small) < 12


def test_a_large_model_shows_in_memory(tmp_path: Path) -> None:
    weight = np.ones((IN, 4 << 20), np.float32)  # 96 MiB
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceMax", ["h"], ["y"], axes=[1]),
    ]
    large = save(tmp_path / "l.onnx", nodes, [("x", TensorProto.FLOAT, ["n", IN])], ["n", 1], {"w": weight})
    small = linear_relu(tmp_path / "s.onnx")
    one = target(measure={"batch_outputs": 1})
    peaks = [run_outputs(tmp_path, m, samples(1), where=one).peak_mb for m in (small, large)]
    assert peaks[1] - peaks[0] > 90


# ------------------------------------------------------------------------------------ refusal


@pytest.mark.parametrize("name", ["cuda", "cuda-tf32", "tensorrt", "coreml"])
def test_a_missing_provider_is_unavailable(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    where = find_target(name)
    provider = where.runtime.provider
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has {provider}")
    model = linear_relu(tmp_path / "m.onnx")
    with pytest.raises(TargetUnavailable, match=rf"{name}: onnxruntime .* has no {provider}, only .*CPU"):
        run_outputs(tmp_path, model, samples(2), where=where)
    with pytest.raises(TargetUnavailable, match=f"has no {provider}"):
        probe(where, tmp_path / "probe")


def test_a_provider_that_takes_no_node_is_unavailable(tmp_path: Path) -> None:
    """AzureExecutionProvider is listed by the plain onnxruntime and runs nothing of this."""
    provider = "AzureExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {provider}")
    model = linear_relu(tmp_path / "m.onnx")
    with pytest.raises(TargetUnavailable, match="fallback to CPU EP has been explicitly disabled"):
        run_outputs(tmp_path, model, samples(2), where=target(runtime={"provider": provider}))
    loose = target(runtime={"provider": provider, "allow_fallback": True})
    with pytest.raises(TargetUnavailable, match=f"none of 3 nodes runs on {provider}"):
        run_outputs(tmp_path, model, samples(2), where=loose)


def test_a_corrupt_model_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"no protobuf at all")
    with pytest.raises(TargetUnavailable, match=r"here: InvalidProtobuf: .*m\.onnx"):
        run_outputs(tmp_path, model, samples(2))


def test_an_output_without_a_batch_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)]
    model = save(tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, ["n", IN])], [])
    with pytest.raises(TargetUnavailable, match=r"output 'y' is \(\); its first axis must be the batch"):
        run_outputs(tmp_path, model, samples(2))


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, ["n", IN])], ["n", IN])
    inputs = np.abs(samples(5)) + 1
    inputs[3, 2] = -1
    with pytest.raises(TargetUnavailable, match=r"m\.onnx: output 0 is not finite for 1 of 5 inputs"):
        run_outputs(tmp_path, model, inputs)


def test_an_endless_agent_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child as well, which would keep the pipe open and the device busy."""
    agent_of(
        monkeypatch,
        tmp_path,
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('pids', os.getpid(), child.pid, flush=True)\ntime.sleep(600)\n",
    )
    job = write_job(tmp_path / "job", target(), "probe", {})
    with pytest.raises(TargetUnavailable, match=r"did not finish within 5 s and was stopped.*pids") as caught:
        Local().run(job.folder, target(), 5)
    alive = [int(pid) for pid in str(caught.value).split("pids")[1].split()]
    assert len(alive) == 2
    end = time.monotonic() + 30  # a killed process takes a moment to go; one that was spared sleeps on
    while alive and time.monotonic() < end:
        alive = [pid for pid in alive if running(pid)]
        time.sleep(0.02)
    assert not alive


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "memory ran out"), (signal.SIGSEGV, r"crashed \(SIGSEGV\)")]
)
def test_a_dying_agent_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, words: str
) -> None:
    code = f"import os\nprint('last gasp', flush=True)\nos.kill(os.getpid(), {int(number)})\n"
    agent_of(monkeypatch, tmp_path, code)
    job = write_job(tmp_path / "job", target(), "probe", {})
    with pytest.raises(TargetUnavailable, match=rf"here: the process .*{words}.*last gasp"):
        Local().run(job.folder, target(), 60)


def test_an_agent_that_ends_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_of(monkeypatch, tmp_path, "raise SystemExit(3)")
    job = write_job(tmp_path / "job", target(), "probe", {})
    with pytest.raises(TargetUnavailable, match=r"ended with status 3 and no result\.$"):
        Local().run(job.folder, target(), 60)


def test_memory_that_runs_out_is_told(tmp_path: Path) -> None:
    """A model that asks for 2^46 bytes: onnxruntime refuses, the agent says so."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["h"]),
        helper.make_node("ReduceMax", ["h"], ["y"], axes=[1]),
    ]
    weights = {"shape": np.array([1, 1 << 44], np.int64)}
    model = save(tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, [1, 1])], [1, 1], weights)
    with pytest.raises(TargetUnavailable, match=r"(?i)alloc|memory"):
        run_outputs(tmp_path, model, np.ones((1, 1), np.float32))


def test_a_missing_onnxruntime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = (
        "import runpy, sys\n"
        "sys.modules['onnxruntime'] = None\n"
        f"runpy.run_path({str(write_agent(tmp_path))!r}, run_name='__main__')\n"
    )
    agent_of(monkeypatch, tmp_path, wrapper)
    with pytest.raises(
        TargetUnavailable, match=r"onnxruntime cannot be imported .* install it on the target"
    ):
        probe(target(), tmp_path / "job")


def test_local_takes_no_connection(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'local' takes no \[connection\], found host"):
        Local().run(tmp_path, target(connection={"host": "x"}), 60)


def test_an_unknown_transport_has_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no 'locl' among the runtimes; did you mean 'local'"):
        probe(target(transport="locl"), tmp_path / "job")


# --------------------------------------------------------------------------- pairs and probes


def test_pairs_of_two_models(tmp_path: Path) -> None:
    where = target(measure={"pairs": 10})
    models = {
        "original": linear_relu(tmp_path / "a.onnx"),
        "pruned": linear_relu(tmp_path / "b.onnx", seed=5),
    }
    job = write_job(tmp_path / "job", where, "pairs", models, (samples(20),), seed=3, launch_s=20)
    answer = read_pairs(job, Local().run(job.folder, where, 60), where)
    assert answer.pairs.shape == answer.control.shape == (10, 2)
    result = json.loads((job.folder / "result.json").read_text())
    assert sorted(result["order"]) == [
        "control-original",
        "control-original",
        "pairs-original",
        "pairs-pruned",
    ]
    assert result["warm_up"] >= 4
    with np.load(job.folder / "inputs.npz") as archive:
        assert archive["input_0"].shape == (16, IN)  # only what is timed travels


def test_pairs_end_in_time(tmp_path: Path) -> None:
    where = target(measure={"pairs": 10**9})
    models = dict.fromkeys(("original", "pruned"), linear_relu(tmp_path / "a.onnx"))
    job = write_job(tmp_path / "job", where, "pairs", models, (samples(2),), launch_s=0.2)
    answer = read_pairs(job, Local().run(job.folder, where, 60), where)
    assert 8 <= len(answer.pairs) < 10**6


def test_the_order_of_sessions_is_drawn(tmp_path: Path) -> None:
    models = dict.fromkeys(("original", "pruned"), linear_relu(tmp_path / "a.onnx"))
    orders = []
    for seed in (0, 0, 1):
        job = write_job(tmp_path / "job", target(), "pairs", models, (samples(2),), seed=seed, launch_s=1)
        Local().run(job.folder, target(), 60)
        orders.append(json.loads((job.folder / "result.json").read_text())["order"])
    assert orders[0] == orders[1] != orders[2]


def test_probe_runs_a_node(tmp_path: Path) -> None:
    answer = probe(target(), tmp_path / "job")
    assert answer.placement == {"CPUExecutionProvider": 1}
    assert answer.environment["python"] == ".".join(map(str, sys.version_info[:3]))


def test_external_data_travels_with_its_model(tmp_path: Path) -> None:
    import onnx

    proto = onnx.load(linear_relu(tmp_path / "plain.onnx"))
    onnx.save(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0
    )
    answer = run_outputs(tmp_path, tmp_path / "m.onnx", samples(3))
    np.testing.assert_allclose(answer.outputs[0], expected(samples(3)), rtol=1e-5, atol=1e-5)
    assert len(json.loads((tmp_path / "job" / "job.json").read_text())["files"]) == 2


def test_a_model_is_copied_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    model = linear_relu(tmp_path / "m.onnx")
    job = jobs.write_job(tmp_path / "job", target(), "outputs", {"model": model}, (samples(2),))
    assert job.content["files"] == {"models/model/m.onnx": sha256_of(model)}
    assert (tmp_path / "job/models/model/m.onnx").stat().st_ino != model.stat().st_ino


def test_local_is_registered() -> None:
    assert RUNTIMES["local"].name == "local"


def test_inputs_can_lie_on_the_device_before_the_clock_starts(tmp_path: Path) -> None:
    where = target(measure={"pairs": 6, "bind": "cpu"})
    model = linear_relu(tmp_path / "a.onnx")
    models = {"original": model, "pruned": model}
    job = write_job(tmp_path / "job", where, "pairs", models, (samples(4),), launch_s=20)
    assert read_pairs(job, Local().run(job.folder, where, 60), where).pairs.shape == (6, 2)
    wrong = target(measure={"pairs": 6, "bind": "cuda"})
    job = write_job(tmp_path / "job", wrong, "pairs", models, (samples(4),), launch_s=20)
    with pytest.raises(TargetUnavailable, match=r"Can.t allocate memory on the device|(?i:cuda)"):
        read_pairs(job, Local().run(job.folder, wrong, 60), wrong)


def test_a_target_may_ask_for_the_same_numbers_in_every_run() -> None:
    for asked in (False, True):
        where = target(runtime={"deterministic": asked})
        runtime = dataclasses.asdict(where.runtime) | dataclasses.asdict(where.threads)
        made = sessions.session(onnxruntime, {"runtime": runtime}, PROBE)
        assert made.get_session_options().use_deterministic_compute is asked


def test_a_process_stays_on_its_cpus(tmp_path: Path) -> None:
    mine = min(os.sched_getaffinity(0))
    assert probe(target(threads={"intra": 1, "cpus": [mine]}), tmp_path / "job").placement
    with pytest.raises(TargetUnavailable, match=r"cannot pin to the CPUs \[1023\]"):
        probe(target(threads={"cpus": [1023]}), tmp_path / "job")


def test_the_environment_is_the_targets(tmp_path: Path) -> None:
    runtime = {"environment": {"EDGEPRUNE_TEST": "{job}/x", "PYTHONWARNINGS": 1}}
    assert target(runtime=runtime).runtime.environment["PYTHONWARNINGS"] == "1"
    job = write_job(tmp_path / "job", target(runtime=runtime), "probe", {})
    agent = write_agent(job.folder)
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(agent)!r})\n"
        "from edgeprune.runtimes.agent.work import main\n"
        f"main(Path({str(job.folder)!r}))\nprint(os.environ['EDGEPRUNE_TEST'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{job.folder.resolve()}/x"


def test_a_cache_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert probe(
        target(runtime={"environment": {"EDGEPRUNE_TEST": "{cache}/engines"}}), tmp_path / "job"
    ).placement
    made = tmp_path / "mine" / "edgeprune" / "engines"
    assert made.is_dir()
    assert made.stat().st_mode & 0o077 == 0  # nobody else reads or plants anything in it
