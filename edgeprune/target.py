"""A target: a device, a runtime on it, and how a model is measured there.

The dataclasses are the schema of a target's TOML file, which `edgeprune.profiles` reads;
`targets/README.md` has the table of fields. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgeprune.errors import UsageError
from edgeprune.verdict.limits import Limits

CPU_PROVIDER = "CPUExecutionProvider"
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """`[runtime]`: what onnxruntime is asked for.

    Attributes:
        provider: execution provider that every node must run on.
        options: the provider's own options, as text; `{cache}` in a value is the user's own cache folder on
            the device.
        plugin: for a provider that is no part of onnxruntime: the Python package that brings its
            library, or the library's path on the device.
        device: which kind of device a plugin provider is to run on; the first one is taken.
        environment: environment variables the runtime and its drivers see; `{job}` in a value is
            a fresh writable folder, `{cache}` as above.
        deterministic: ask onnxruntime for kernels that give the same numbers in every run, where it has them.
        allow_fallback: whether nodes may run on the CPU instead.
        optimization: onnxruntime's graph optimisation level.
    """

    provider: str = CPU_PROVIDER
    options: dict[str, str] = field(default_factory=dict)
    plugin: str = ""
    device: Literal["any", "cpu", "gpu", "npu"] = "any"
    environment: dict[str, str] = field(default_factory=dict)
    deterministic: bool = False
    allow_fallback: bool = False
    optimization: Literal["all", "extended", "basic", "disabled"] = "all"


@dataclass(frozen=True, slots=True)
class Grid:
    """`[grid]`: widths are kept at multiples of these, in units.

    Attributes:
        conv: channels of convolutions; `auto` reads the vector width of this machine's CPU.
        units: units of linear layers.
    """

    conv: int | Literal["auto"] = "auto"
    units: int = 1

    def __post_init__(self) -> None:
        for name, value in (("conv", self.conv), ("units", self.units)):
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True, slots=True)
class Threads:
    """`[threads]`: 0 leaves the number to onnxruntime (one a physical core).

    Attributes:
        intra: threads inside one operation.
        inter: operations at once.
        spinning: whether idle threads wait busily. Three sessions share a latency process, so
            spinning threads of one would slow the next.
        cpus: the CPUs the process is kept on; empty leaves it free.
    """

    intra: int = 0
    inter: int = 1
    spinning: bool = False
    cpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(cpu < 0 for cpu in self.cpus) or len(set(self.cpus)) != len(self.cpus):
            raise ValueError(f"cpus must hold different numbers from 0 on, not {list(self.cpus)}")
        if self.intra < 0 or self.inter < 0:
            raise ValueError(f"intra and inter cannot be negative, not {self.intra} and {self.inter}")


@dataclass(frozen=True, slots=True)
class Measure:
    """`[measure]`: how outputs and latency are measured.

    Attributes:
        latency: false where time means nothing (an emulator); latency is then not reported.
        batch: samples a timed run takes; a model with a fixed batch keeps its own.
        batch_outputs: samples a run takes when outputs are compared.
        launches_min: fresh processes to measure at least.
        launches_max: and at most.
        pairs: timed pairs (original, pruned) a launch, and as many (original, original).
        warm_up: runs of each model before anything counts, at least.
        budget_s: seconds after which no further launch is started.
        limit_s: seconds after which one process is stopped.
        confidence: of the interval over launches.
        half_width: wanted half-width of the interval of the log-ratio (0.02 is about 2 %).
        bind: a device (`cuda`, `dml`, `cpu`) where inputs lie before a timed run begins and outputs
            stay, so that copying does not count; empty times what a plain caller waits for.
    """

    latency: bool = True
    batch: int = 1
    batch_outputs: int = 64
    launches_min: int = 8
    launches_max: int = 24
    pairs: int = 200
    warm_up: int = 20
    budget_s: float = 120.0
    limit_s: float = 300.0
    confidence: float = 0.95
    half_width: float = 0.02
    bind: str = ""

    def __post_init__(self) -> None:
        for name in ("batch", "batch_outputs", "pairs", "warm_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("budget_s", "limit_s", "half_width"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name):g}")
        if not 2 <= self.launches_min <= self.launches_max:
            raise ValueError(
                "2 ≤ launches_min ≤ launches_max is needed (an interval needs two launches), not "
                f"{self.launches_min} and {self.launches_max}"
            )
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must be in [0.5, 1), not {self.confidence:g}")

    def hurried(self) -> Measure:
        """The same for a first impression: few launches, few runs, a short budget."""
        launches = min(self.launches_min, 3)
        return replace(
            self,
            launches_min=launches,
            launches_max=launches,
            pairs=min(self.pairs, 40),
            warm_up=min(self.warm_up, 5),
            budget_s=min(self.budget_s, 15.0),
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A device and a runtime on it that a model is meant for.

    Attributes:
        name: what `--target` takes.
        description: one line, shown in lists.
        device_class: computer, phone, board, gpu, emulator, browser …; shown, not used.
        transport: how the device is reached; a member of `edgeprune.runtimes.RUNTIMES`.
        connection: what the transport needs to find it; lists are programs and their arguments.
        tested: false for a template that its authors could not run.
        precision: what the device computes with.
        runtime: what onnxruntime is asked for.
        grid: widths that the device computes well.
        threads: how many, and where.
        measure: how outputs and latency are measured.
        limits: of the gate on this target, where the user set none.
    """

    name: str
    description: str = ""
    device_class: str = "computer"
    transport: str = "local"
    connection: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    tested: bool = True
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    grid: Grid = field(default_factory=Grid)
    threads: Threads = field(default_factory=Threads)
    measure: Measure = field(default_factory=Measure)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        here = self.transport == "local" and self.runtime.provider == CPU_PROVIDER
        if self.grid.conv == "auto" and not here:
            raise ValueError(
                '[grid] conv = "auto" reads this machine\'s CPU, which is not where '
                f"{self.name} runs ({self.transport}, {self.runtime.provider}); write the number"
            )

    def for_float16(self) -> Target:
        """The same, as it computes a file in float16: results lie in that format between operations.

        Raises:
            UsageError: the target rounds to bfloat16 besides, for which there is no rounding model.
        """
        if self.precision == "bf16":
            raise UsageError(
                f"--fp16: {self.name} computes in bfloat16, which rounds a float16 file once more in another "
                "format; leave one of them out."
            )
        return replace(self, precision="fp16")

    def conv_multiple(self, cpuinfo: Path = _CPUINFO) -> int:
        """Channels of a convolution come in multiples of this.

        `auto` is the block of onnxruntime's blocked layout: 16 channels with AVX-512, 8 with
        AVX2, and 4 elsewhere (other widths fall out of that layout and can run slower).
        """
        if isinstance(self.grid.conv, int):
            return self.grid.conv
        try:
            text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 4
        line = next((li for li in text.splitlines() if li.startswith("flags")), "")
        flags = set(line.partition(":")[2].split())
        return 16 if "avx512f" in flags else 8 if "avx2" in flags else 4
