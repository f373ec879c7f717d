"""The latency table, measured on this machine's CPU and on paper."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeprune.errors import TargetUnavailable
from edgeprune.profiles import Target, find_target
from edgeprune.progress import silent
from edgeprune.runtimes.jobs import read_layers, write_job
from edgeprune.stages import latency_table
from edgeprune.stages.latency_table import CostTable, Layer, cost_table, grid, points, slower

WIDE = Layer("conv", 64, 64, (28, 28), (3, 3), (1, 1), (1, 1))
DEPTHWISE = Layer("conv", 96, 96, (14, 14), (3, 3), (1, 1), (1, 1), groups=96)
LINEAR = Layer("linear", 256, 512)
LINE = Layer("conv", 16, 32, (128,), (9,), (2,), (4,), (1,))


def target(**changes: object) -> Target:
    found = find_target("cpu-1t")
    return dataclasses.replace(found, measure=dataclasses.replace(found.measure, **changes))


def made(tmp_path: Path, layers: list[Layer], multiple: int = 16) -> CostTable:
    return cost_table(
        layers, target(), multiple=multiple, cache=tmp_path / "cache", work=tmp_path / "w", progress=silent
    )


def test_widths_lie_on_the_grid() -> None:
    assert grid(64, 16) == (16, 32, 48, 64)
    assert grid(60, 16) == (16, 32, 48, 60)
    assert grid(3, 16) == (3,)
    assert points(64, 16) == (16, 32, 48, 64)
    assert points(1024, 16)[0] == 16
    assert points(1024, 16)[-1] == 1024
    assert len(points(1024, 16)) == latency_table.POINTS


def test_narrower_layers_cost_less(tmp_path: Path) -> None:
    table = made(tmp_path, [WIDE, DEPTHWISE, LINEAR, LINE])
    for layer in (WIDE, LINEAR):
        full = table.cost_ms(layer, layer.inputs, layer.outputs)
        assert table.cost_ms(layer, layer.inputs, layer.outputs // 4) < 0.7 * full
        assert table.cost_ms(layer, layer.inputs // 4, layer.outputs) < 0.7 * full
    assert table.cost_ms(DEPTHWISE, 16, 16) < table.cost_ms(DEPTHWISE, 96, 96)
    assert len(table.curve(WIDE)) == 4
    assert table.total_ms([(WIDE, 64, 64), (LINE, 16, 32)]) == pytest.approx(
        table.cost_ms(WIDE, 64, 64) + table.cost_ms(LINE, 16, 32)
    )


def test_a_layer_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(tmp_path, [LINE, LINE])
    monkeypatch.setattr(latency_table, "_measured", lambda *_: pytest.fail("measured again"))
    assert made(tmp_path, [LINE]) == first


def test_a_damaged_cache_is_measured_anew(tmp_path: Path) -> None:
    made(tmp_path, [LINE])
    (path,) = (tmp_path / "cache").glob("*.json")
    for text in ("{", "[]", '{"version": 0, "ms": {}}', json.dumps({"version": 1, "ms": {"x": "y"}})):
        path.write_text(text)
        assert made(tmp_path, [LINE]).ms


def test_other_threads_are_another_target(tmp_path: Path) -> None:
    made(tmp_path, [LINE])
    two = dataclasses.replace(target(), threads=dataclasses.replace(target().threads, intra=2))
    cost_table([LINE], two, multiple=16, cache=tmp_path / "cache", work=tmp_path / "w", progress=silent)
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2


def test_an_emulators_latency_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="widths cannot be chosen by its latency"):
        cost_table([LINE], target(latency=False), work=tmp_path, progress=silent)


def on_paper(costs: dict[tuple[int, int], float]) -> CostTable:
    layer = Layer("linear", 32, 32)
    return CostTable("board", 1, 16, {layer.at(i, o).key(1): ms for (i, o), ms in costs.items()})


def test_costs_between_points_are_interpolated() -> None:
    table = on_paper({(16, 16): 1.0, (32, 16): 2.0, (16, 32): 3.0, (32, 32): 5.0})
    layer = Layer("linear", 32, 32)
    assert table.cost_ms(layer, 32, 32) == 5.0
    assert table.cost_ms(layer, 24, 32) == 4.0
    assert table.cost_ms(layer, 24, 24) == pytest.approx((1 + 2 + 3 + 5) / 4)
    assert table.curve(layer) == ((16, 2.0), (32, 5.0))


def test_why_a_smaller_net_is_not_quicker() -> None:
    table = on_paper({(16, 16): 5.0, (32, 16): 5.0, (16, 32): 3.0, (32, 32): 5.0})
    layer = Layer("linear", 32, 32)
    full = [(layer, 32, 32)]
    assert slower(table, full, full) == ()
    assert slower(table, full, [(layer, 16, 32)]) == ()
    (reason,) = slower(table, full, [(layer, 32, 16)])
    assert reason == "linear 32→32, now 32→16: costs 5 ms, was 5: board gains nothing from these widths"
    (reason,) = slower(table, full, [(layer, 32, 20)])
    assert "20 is no multiple of 16: board leaves its fast layout" in reason


@pytest.mark.parametrize("ms", [None, [], {}, {"a": 1.0, "b": 1.0}, {"a": -1.0}, {"a": "fast"}])
def test_unsound_times_are_refused(tmp_path: Path, ms: object) -> None:
    model = latency_table._written(tmp_path / "a.onnx", LINE, 1)
    job = write_job(tmp_path / "job", target(), "layers", {"a": model})
    result = {"status": "ok", "kind": "layers", "files": job.content["files"], "environment": {}, "ms": ms}
    (job.folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(TargetUnavailable, match=r"cpu-1t: its result\.json"):
        read_layers(job, job.folder, target())
