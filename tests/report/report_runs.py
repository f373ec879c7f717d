"""Runs built by hand: a full one, and one of which almost nothing is known."""

from __future__ import annotations

from edgeprune.records.allocation import AllocationRecord, WidthsTried
from edgeprune.records.run import (
    Artifact,
    Certificate,
    Check,
    Drift,
    Environment,
    GroupRecord,
    Latency,
    ModelRecord,
    OperationTime,
    PlanRecord,
    Run,
    SettingRecord,
    TensorRecord,
    Term,
    Validation,
    Verdict,
)

ENVIRONMENT = Environment(
    edgeprune="0.1.0",
    python="3.11.2",
    torch="2.13.0",
    onnx="1.23.2",
    onnxruntime="1.31.1",
    onnxsim="0.8.1",
    platform="Linux-6.1-x86_64",
    cpu="Some CPU",
    cores=2,
    flags=("avx2", "avx512f"),
    seed=0,
)


ERRORS = ((0.0, 0.0), (0.1, 0.04), (0.5, 0.14), (0.9, 0.31), (0.95, 0.36), (0.99, 0.49), (1.0, 0.6102))


def model(name: str = "lenet_300_100") -> ModelRecord:
    return ModelRecord(
        name=name,
        factory="edgeprune.demo.lenet:build",
        weights_sha256="5a" * 32,
        inputs=(TensorRecord("x", (None, 784), "float32"),),
        outputs=(TensorRecord("logits", (None, 10), "float32"),),
    )


def plan() -> PlanRecord:
    return PlanRecord(
        method="gram",
        groups=(
            GroupRecord("input", ("fc1.weight[1]",), 784, 784, None, "an input of the model"),
            GroupRecord(
                "fc1", ("fc1.weight[0]", "fc2.weight[1]"), 300, 112, 0.00213, None, tuple(range(112))
            ),
            GroupRecord("fc2", ("fc2.weight[0]", "fc3.weight[1]"), 100, 64, 0.000871, None, tuple(range(64))),
            GroupRecord("fc3", ("fc3.weight[0]",), 10, 10, None, "an output of the model"),
        ),
        params=(266_610, 95_802),
        macs=(266_200, 95_616),
        allocation=AllocationRecord(
            "--params 0.36", "parameters", 0.36, 0.359, 266_610.0, None,
            (WidthsTried("greedy", 0.359, 0.003, chosen=True), WidthsTried("programme", 0.35, 0.0032)),
            ((0.1, 0.2), (0.36, 0.0029), (0.7, 0.0001), (1.0, 0.0)),
        ),
    )  # fmt: skip


def terms() -> tuple[Term, ...]:
    return (
        Term(
            "prune", "linf", 14.91, "proved", "delta-crown", ("inputs in the box [0, 1]",), 0.61, 1.07, 2048
        ),
        Term("masking", "linf", 0.0, "proved", "exact by construction", (), 0.0, None, 64),
        Term("export", "linf", None, "observed", "compared on inputs", (), 1.9e-6, None, 64),
        Term("simplify", "linf", None, "observed", "compared on inputs", (), 0.0, None, 64),
        Term(
            "rounding",
            "linf",
            0.000412,
            "proved-modulo-rounding-model",
            "rounding",
            ("float32",),
            2.1e-6,
            None,
            2048,
        ),
    )


def certificates() -> tuple[Certificate, ...]:
    box = "every input in the box [0, 1]"
    data = "inputs drawn like the held-out set"
    return (
        Certificate(
            "delta-crown", "global", box, "linf", 14.91, "proved", None, 0.61, 1.07, 13.93, 2048, None, None
        ),
        Certificate(
            "local-8",
            "local",
            "±8/255 around held-out inputs",
            "linf",
            0.913,
            "proved",
            None,
            0.61,
            0.79,
            1.16,
            64,
        ),
        Certificate(
            "quantile 0.99",
            "distribution",
            data,
            "linf",
            0.542,
            "statistical",
            0.95,
            0.61,
            None,
            1.04,
            2048,
            None,
            "cpu",
        ),
        Certificate(
            "whole distribution",
            "distribution",
            data,
            "cdf",
            0.03,
            "statistical",
            0.95,
            n_inputs=2048,
            target="cpu",
            curve=((0.04, 0.9, 0.93), (0.14, 0.5, 0.53), (0.49, 0.01, 0.04), (0.61, 0.0, 0.03)),
        ),
        Certificate(
            "flips",
            "distribution",
            data,
            "rate",
            0.00712,
            "statistical",
            0.95,
            0.0039,
            None,
            1.8,
            2048,
            None,
            "cpu",
        ),
        Certificate(
            "layer", "layer", box, "relative-l2", 0.0481, "proved", None, 0.031, 0.0442, 1.09, 2048, "fc1"
        ),
        Certificate(
            "a-priori", "global", box, "linf", None, "proved", reason="the bound exceeds the output's range"
        ),
    )


def validations() -> tuple[Validation, ...]:
    return (
        Validation(
            target="cpu",
            reached=True,
            provider="CPUExecutionProvider",
            placement={"CPUExecutionProvider": 5},
            precision="float32",
            drift=Drift(0.6102, 0.171, 0.0173, 0.9961, 2048, (0.9829, 0.9814), ERRORS),
            latency=Latency(
                0.0412,
                0.0171,
                0.417,
                0.402,
                0.433,
                0.95,
                8,
                0.011,
                "settled",
                0.0193,
                (0.41, 0.42, 0.415, 0.431, 0.402, 0.421, 0.418, 0.419),
            ),
            memory_mb=(61.2, 60.1),
            load_ms=(4.1, 2.3),
            first_ms=(0.4, 0.2),
            runtime_version="1.31.1",
            operations=(
                OperationTime("node_linear", "FusedGemm", 31.0, 11.2),
                OperationTime("node_linear_1", "FusedGemm", 4.4, 2.1),
                OperationTime("node_linear_2", "Gemm", 1.1, None),
                OperationTime("3 other nodes", "", 0.9, 0.8),
            ),
        ),
        Validation(
            target="arm-board",
            reached=True,
            provider="CPUExecutionProvider",
            placement={"CPUExecutionProvider": 5},
            precision="float32",
            drift=Drift(0.6102, 0.171, 0.0173, 0.9961, 256),
            latency=Latency(
                0.912,
                0.861,
                0.944,
                0.871,
                1.023,
                0.95,
                8,
                0.034,
                "inconclusive",
                None,
                (0.88, 1.01, 0.93, 0.97, 0.9, 0.95, 1.02, 0.9),
            ),
            warnings=("the governor is not 'performance'",),
        ),
        Validation(
            target="webgpu",
            reached=False,
            provider="",
            placement={},
            precision="",
            reason="no adapter was found",
        ),
    )


def verdict() -> Verdict:
    return Verdict(
        False,
        (
            Check("params_ratio", 0.359, 0.5, "pass"),
            Check("observed_error", 0.6102, 0.5, "fail", "the largest difference on 2048 inputs", "cpu"),
            Check("latency_ratio", 0.417, 0.8, "pass", "", "cpu"),
            Check("latency_ratio", 0.944, 1.0, "inconclusive", "0.871 to 1.023 holds the limit", "arm-board"),
            Check("observed_error", None, 0.5, "unavailable", "no adapter was found", "webgpu"),
        ),
    )


def full_run(name: str = "lenet_300_100") -> Run:
    return Run(
        model=model(name),
        environment=ENVIRONMENT,
        settings=(
            SettingRecord("method", "gram", "default"),
            SettingRecord("params", 0.36, "flag"),
            SettingRecord("target", ["cpu", "arm-board"], "flag"),
            SettingRecord("exclude", [], "edgeprune.toml"),
        ),
        plan=plan(),
        artifacts={
            "original": Artifact("original.onnx", "1b" * 32, 1_068_310, 20),
            "pruned": Artifact("pruned.onnx", "2c" * 32, 385_101, 20),
        },
        terms=terms(),
        certificates=certificates(),
        validations=validations(),
        verdict=verdict(),
        warnings=("2 of 4 groups are pinned",),
        seconds={"trace": 1.2, "validate": 21.4},
    )


def bare_run() -> Run:
    return Run(model=ModelRecord("m", "", "", (), ()), environment=ENVIRONMENT)
