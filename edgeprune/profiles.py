"""Targets and calibration sets, read from TOML.

A name is looked for in the folders that ship with edgeprune, then in the user's own `./targets`
and `./calibration`; anything that ends in `.toml` or holds a `/` is a path. The fields are
described in `targets/README.md` and `calibration/README.md`.

Only the standard library is imported, so listing targets starts in a blink; numpy is imported
when samples are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeprune.domains.spec import DomainSpec
from edgeprune.errors import CalibrationError, ConfigError, UsageError
from edgeprune.registry import suggestion
from edgeprune.tables import read_table, read_toml
from edgeprune.target import CPU_PROVIDER, Grid, Measure, RuntimeOptions, Target, Threads

if TYPE_CHECKING:
    from edgeprune.inputs.samples import CalibrationData

__all__ = [
    "CPU_PROVIDER",
    "Calibration",
    "Data",
    "Grid",
    "Measure",
    "RuntimeOptions",
    "Target",
    "Threads",
    "find_calibration",
    "find_target",
    "list_calibrations",
    "list_targets",
    "shipped_folder",
]


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
class Stated:
    """`[learned]` of a calibration set that `edgeprune calibrate` made: what its weights were learned for.

    Attributes:
        loss: whose weighted mean over the set stands for its mean over the whole one.
        queries: for which queries (parameters, nets), in words.
        size: samples of the whole set.
        fresh: queries that nothing was learned on, on which the rest was measured.
        confidence: of the two bounds.
        mean: mean relative error.
        bound: on its mean over all queries (errors above 1 count as 1).
        quantile: what the error of one more query exceeds with probability 1 − confidence at most; None where
            there were too few queries to say.
    """

    loss: str
    queries: str
    size: int
    fresh: int
    confidence: float
    mean: float
    bound: float
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration set: where its samples lie and the domain they come from.

    Attributes:
        file: the `.npz` or `.npy` file with the samples.
        domain: the inputs that a certificate speaks about; None when nothing was said.
        learned: what the samples' weights were learned for; None for a set that was not learned.
    """

    name: str
    file: Path
    data: Data
    description: str = ""
    source: str = ""
    licence: str = ""
    domain: DomainSpec | None = None
    learned: Stated | None = None

    def load(self) -> CalibrationData:
        """Read and check the samples.

        Raises:
            CalibrationError: the file is missing, damaged or not the one that was described,
                or its samples are empty, not finite, outside the domain, or in both halves.
        """
        from edgeprune.inputs.samples import load_samples

        return load_samples(self)


@dataclass(frozen=True, slots=True)
class _CalibrationFile:
    """The TOML file of a calibration set."""

    data: Data
    name: str
    description: str = ""
    source: str = ""
    licence: str = ""
    domain: DomainSpec | None = None
    learned: Stated | None = None


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
        learned=described.learned,
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
