"""Targets and calibration sets, read from TOML.

A name is looked for in the folders that ship with edgeprune, then in the user's own `./targets`
and `./calibration`; anything that ends in `.toml` or holds a `/` is a path. The fields are
described in `targets/README.md` and `calibration/README.md`.

Only the standard library is imported, so listing targets starts in a blink; numpy is imported
when samples are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeprune.errors import CalibrationError, ConfigError, UsageError
from edgeprune.limits import Limits
from edgeprune.registry import suggestion
from edgeprune.tables import read_table, read_toml

if TYPE_CHECKING:
    from edgeprune.samples import CalibrationData

CPU_PROVIDER = "CPUExecutionProvider"
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """`[runtime]`: what onnxruntime is asked for.

    Attributes:
        provider: execution provider that every node must run on.
        options: the provider's own options, as text.
        allow_fallback: whether nodes may run on the CPU instead.
        optimization: onnxruntime's graph optimisation level.
    """

    provider: str = CPU_PROVIDER
    options: dict[str, str] = field(default_factory=dict)
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
    """

    intra: int = 0
    inter: int = 1
    spinning: bool = False

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, slots=True)
class Target:
    """A device and a runtime on it that a model is meant for."""

    name: str
    description: str = ""
    device_class: str = "computer"
    transport: str = "local"
    connection: dict[str, str] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class Data:
    """`[data]` of a calibration set; see `calibration/README.md`."""

    file: str
    sha256: str = ""
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: Literal["float32", "int64"] = "float32"
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.sha256 and (len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")):
            raise ValueError(f"sha256 must be 64 hexadecimal digits (lower case), not '{self.sha256}'")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape must hold positive sizes, not {list(self.shape)}")
        if len(self.inputs) > 1 and self.shape:
            raise ValueError("shape is only for a single input; store several inputs as the model takes them")
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs names an input twice: {', '.join(self.inputs)}")
        if self.scale == 0:
            raise ValueError("scale must not be 0: every sample would be the same")
        if self.dtype == "int64" and (self.scale, self.offset) != (1.0, 0.0):
            raise ValueError("scale and offset are for float32; int64 samples are taken as they are")


@dataclass(frozen=True, slots=True)
class Box:
    """`[domain]`: every input value lies between `low` and `high`, after scale and offset."""

    low: float
    high: float
    kind: Literal["box"] = "box"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration set: where its samples lie and the domain they come from.

    Attributes:
        file: the `.npz` or `.npy` file with the samples.
        domain: the inputs that a certificate speaks about; None when nothing was said.
    """

    name: str
    file: Path
    data: Data
    description: str = ""
    source: str = ""
    licence: str = ""
    domain: Box | None = None

    def load(self) -> CalibrationData:
        """Read and check the samples.

        Raises:
            CalibrationError: the file is missing, damaged or not the one that was described,
                or its samples are empty, not finite, outside the domain, or in both halves.
        """
        from edgeprune.samples import load_samples

        return load_samples(self)


@dataclass(frozen=True, slots=True)
class _CalibrationFile:
    """The TOML file of a calibration set."""

    data: Data
    name: str
    description: str = ""
    source: str = ""
    licence: str = ""
    domain: Box | None = None


def find_target(name_or_path: str | Path) -> Target:
    """The target of that name, or in that file.

    Raises:
        ConfigError: there is none, or its file is malformed.
    """
    path = _find("targets", str(name_or_path))
    content = _extended(path, ())
    content.setdefault("name", path.stem)
    target = read_table(Target, content, str(path))
    _same_name(path, target.name)
    return target


def list_targets() -> tuple[Target, ...]:
    """Every target that can be asked for by name, in alphabetical order.

    Raises:
        ConfigError: one of the files is malformed.
    """
    return tuple(find_target(name) for name in sorted(_named("targets")))


def find_calibration(name_or_path: str | Path) -> Calibration:
    """The calibration set of that name, or in that file (`.toml`, `.npz` or `.npy`).

    Raises:
        ConfigError: there is no such set, or its TOML file is malformed.
        CalibrationError: there is no such `.npz` or `.npy` file.
    """
    plain = Path(name_or_path)
    if plain.suffix in (".npz", ".npy"):
        if not plain.is_file():
            raise CalibrationError(f"{plain}: there is no such file; check the path.")
        return Calibration(name=plain.stem, file=plain, data=Data(file=plain.name), source=str(plain.name))
    path = _find("calibration", str(name_or_path))
    content = read_toml(path)
    content.setdefault("name", path.stem)
    described = read_table(_CalibrationFile, content, str(path))
    _same_name(path, described.name)
    return Calibration(
        name=described.name,
        file=path.parent / described.data.file,
        data=described.data,
        description=described.description,
        source=described.source,
        licence=described.licence,
        domain=described.domain,
    )


def list_calibrations() -> tuple[Calibration, ...]:
    """Every calibration set that can be asked for by name, in alphabetical order.

    Raises:
        ConfigError: one of the files is malformed.
    """
    return tuple(find_calibration(name) for name in sorted(_named("calibration")))


def shipped_folder(kind: Literal["targets", "calibration"]) -> Path:
    """The folder of that kind that came with edgeprune: in the package, or beside a checkout's."""
    package = Path(str(files("edgeprune")))
    return package / kind if (package / kind).is_dir() else package.parent / kind


def _named(kind: Literal["targets", "calibration"]) -> dict[str, Path]:
    """Names and files of the shipped folder, then of the user's own; a name may be taken once."""
    found: dict[str, Path] = {}
    for folder in (shipped_folder(kind), Path.cwd() / kind):
        for path in sorted(folder.glob("*.toml")):
            other = found.setdefault(path.stem, path)
            if other.resolve() != path.resolve() and other.read_bytes() != path.read_bytes():
                raise ConfigError(
                    f"{kind}: '{path.stem}' is defined twice and differently, in {other} and {path}; "
                    "rename your own file."
                )
    return found


def _find(kind: Literal["targets", "calibration"], name: str) -> Path:
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file; check the path.")
        return path
    named = _named(kind)
    if name not in named:
        one = "target" if kind == "targets" else "calibration set"
        hint = suggestion(name, list(named)) if named else f"the folder {kind}/ is empty"
        raise ConfigError(f"there is no {one} '{name}'; {hint}")
    return named[name]


def _same_name(path: Path, name: str) -> None:
    if name != path.stem:
        raise ConfigError(f"{path}: calls itself '{name}'; it must be named like its file: rename one.")


def _extended(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The table of a target laid over the one it extends; a name is looked for beside it first."""
    if path.resolve() in below:
        raise ConfigError(
            f"{path}: extends itself, through {' → '.join(p.name for p in below)}; break the ring."
        )
    content = read_toml(path)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: expected the name of a target, found {parent!r}.")
    beside = path.parent / (parent if parent.endswith(".toml") else f"{parent}.toml")
    try:
        found = beside if beside.is_file() else _find("targets", parent)
    except UsageError as error:
        raise ConfigError(f"{path}: extends: {error}") from error
    inherited = _extended(found, (*below, path.resolve()))
    inherited.pop("name", None)
    return _laid_over(inherited, content)


def _laid_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    result = dict(lower)
    for key, value in upper.items():
        under = result.get(key)
        result[key] = (
            _laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
        )
    return result
