"""Settings: the only home of defaults, read from edgeprune.toml and from flags.

Flags beat the file, the file beats the defaults; where each value came from is kept. The file is
`edgeprune.toml`, or the table `[tool.edgeprune]` of `pyproject.toml`; its keys are the fields of
`Settings`, and limits of the gate stand in its table `[limits]`.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeprune.domains.spec import DomainSpec, parse_domains
from edgeprune.errors import ConfigError, UsageError
from edgeprune.graph.emphasis import parsed
from edgeprune.records.run import SettingRecord, to_json
from edgeprune.tables import read_table, read_toml
from edgeprune.verdict.limits import Limits

BudgetName = Literal["keep", "params", "macs", "bytes", "speedup", "latency_ms"]

QUICK: dict[str, Any] = {
    "samples": 512,
    "learn_steps": 300,
    "budget_s": 3.0,
    "balls": 10,
    "attack_steps": 15,
    "attack_restarts": 4,
}
"""What `quick` sets where nothing else was asked for."""

BUDGETS: tuple[BudgetName, ...] = ("keep", "params", "macs", "bytes", "speedup", "latency_ms")
"""Settings that say how small the net shall be; one of them at most is given."""

CHOICES: dict[str, tuple[str, ...]] = {
    "moments": ("samples", "synthetic", "moments", "none"),
    "direction": ("bottom-up", "top-down"),
    "allocation": ("uniform", "global"),
    "selection": ("fresh-split", "learn-then-test"),
}
"""What a setting can be, by its name."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what a run does.

    Attributes:
        model: `package.module:factory`, `file.py:factory`, or a `.pt2` file.
        weights: a `.safetensors` file for that model.
        trust_pickle: read files that may run code.
        input: example inputs, each as `[name=]1x3x224x224[:dtype]`.
        calibration: name or path of a calibration set.
        domain: the inputs that certificates speak about, as `edgeprune.domains.spec` reads it (`0,1`,
            `linf:0.05@sample3&box:0,1`), or (low, high); the calibration set's own when not given.
        method: the coreset method.
        keep: share of each group's units to keep; 0.5 when no budget is given.
        params: share of the parameters to keep, instead of `keep`.
        macs: share of the multiply-accumulates to keep, instead of `keep`.
        ratios: shares to keep that are tried; the smallest that limit `statistical_error` allows is taken.
        selection: how that spoils no certificate: `fresh-split` or `learn-then-test`.
        bytes: share of the weights' bytes to keep, instead of `keep`.
        speedup: how many times as fast the pruned model shall be on the first target that can be timed,
            instead of `keep`.
        latency_ms: milliseconds that it may take there, instead of `keep`.
        moments: where second moments come from: `samples`, `synthetic` (inputs made from batch norms),
            `moments` (the samples' mean and covariance) or `none` (the weights alone).
        direction: `bottom-up`, or `top-down` for methods that look at weights only.
        allocation: `uniform` (every group keeps the same share) or `global` (what is heard least goes first).
        emphasis: `FAMILY=WEIGHT` for `global`: how much the error of a family of groups counts (`conv-64=2`).
        price_mix: λ in [0, 1] for `global` with `macs`: the share is held by (1 − λ)·MACs + λ·parameters.
        minimax_lambda: weight of the certified worst error against the mean error when readers of pruned
            groups are weighed; 0 minds the mean only.
        learn_steps: of Adam, when `learned` matches all layers to the original.
        finetune: epochs of training behind that; 0 for none.
        loss: of the fine-tuning: `match`, `distil`, `cross-entropy`, `mixed`, or `module:function`.
        augment: `module:function` of (*inputs, generator) that varies each batch trained on.
        processes: that share every batch of the fine-tuning, by torchrun.
        exclude: layers whose channels stay.
        allow_norm_axes: let channels go that a layer norm or its like normalises over; what is left is then
            normalised anew, and such groups are marked approximate.
        couple_limit_s: seconds that finding the groups may take; no limit when not given.
        multiple: channels and units come in multiples of this; the target's when not given.
        recalibrate: re-estimate batch-norm statistics (methods that do not refit).
        samples: most calibration samples to fit with.
        seed: of everything random.
        opset: of the ONNX files; the exporter's default when not given.
        dynamic_batch: leave the batch size of the ONNX files free.
        simplify: run onnxsim on them.
        fp16: convert the pruned file to float16, and judge that; its inputs and outputs stay float32.
        masked_twin: also write the original's shapes with zeros where units were cut.
        simplify_limit_s: seconds after which onnxsim is stopped.
        target: names or paths of the targets to validate on.
        latency: measure latency.
        certify: compute certificates.
        bound: deterministic bounds to compute: intervals, crown, quadratic.
        budget_s: seconds for each of them.
        jobs: threads that linear bounds are computed with.
        robust: radius of the box around held-out samples that the robust statements speak about.
        balls: held-out samples that get such a box, at most.
        confidence: 1 − δ of statistical statements.
        quantile: share of inputs that the quantile certificate speaks about.
        attack_steps: gradient steps of the search for large errors.
        attack_restarts: starts of that search.
        limits: of the gate.
        quick: a first impression in place of a verdict to rely on: what `QUICK` holds for all that was not
            given, one pass a bound, and few launches; the record says so.
    """

    model: str = ""
    weights: str | None = None
    trust_pickle: bool = False
    input: tuple[str, ...] = ()
    calibration: str | None = None
    domain: str | tuple[float, ...] | None = None
    method: str = "gram"
    keep: float | None = None
    params: float | None = None
    macs: float | None = None
    ratios: tuple[float, ...] = ()
    selection: str = "fresh-split"
    bytes: float | None = None
    speedup: float | None = None
    latency_ms: float | None = None
    moments: str = "samples"
    direction: str = "bottom-up"
    allocation: str = "uniform"
    emphasis: tuple[str, ...] = ()
    price_mix: float | None = None
    minimax_lambda: float = 0.0
    learn_steps: int = 2000
    finetune: int = 0
    loss: str = "match"
    augment: str | None = None
    processes: int = 1
    exclude: tuple[str, ...] = ()
    allow_norm_axes: bool = False
    couple_limit_s: float | None = None
    multiple: int | None = None
    recalibrate: bool = False
    samples: int = 4096
    seed: int = 0
    opset: int | None = None
    dynamic_batch: bool = False
    simplify: bool = True
    fp16: bool = False
    masked_twin: bool = False
    simplify_limit_s: float = 300.0
    target: tuple[str, ...] = ("cpu",)
    latency: bool = True
    certify: bool = True
    bound: tuple[Literal["intervals", "crown", "quadratic", "branches"], ...] = ("intervals", "crown")
    budget_s: float = 60.0
    jobs: int = 1
    robust: float | None = None
    balls: int = 100
    confidence: float = 0.95
    quantile: float = 0.99
    attack_steps: int = 60
    attack_restarts: int = 16
    limits: Limits = field(default_factory=Limits)
    quick: bool = False

    def __post_init__(self) -> None:
        self._check_budget()
        if any(not 0.0 < share <= 1.0 for share in self.ratios) or len(set(self.ratios)) != len(self.ratios):
            raise ValueError(f"ratios are different shares above 0 and at most 1, not {list(self.ratios)}")
        for name in ("confidence", "quantile"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} is a probability between 0 and 1, not {getattr(self, name):g}")
        for name in ("samples", "attack_steps", "attack_restarts", "multiple", "opset", "jobs", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not '{getattr(self, name)}'")
        parsed(self.emphasis)
        if (self.emphasis or self.price_mix is not None) and self.allocation != "global":
            raise ValueError(
                "emphasis and price_mix are for allocation = global; set that, or leave them out"
            )
        if self.price_mix is not None and (self.macs is None or not 0.0 <= self.price_mix <= 1.0):
            raise ValueError(
                f"price_mix is a share from 0 to 1 beside a budget in macs, not {self.price_mix:g}"
                f"{'' if self.macs is not None else ' without one'}"
            )
        if not 0.0 <= self.minimax_lambda < math.inf:
            raise ValueError(f"minimax_lambda cannot be negative, not {self.minimax_lambda:g}")
        if self.finetune < 0 or self.learn_steps < 1:
            raise ValueError(
                f"finetune cannot be negative and learn_steps must be at least 1, not {self.finetune} and "
                f"{self.learn_steps}"
            )
        if not self.budget_s > 0 or self.balls < 1 or (self.robust is not None and not self.robust > 0):
            raise ValueError("budget_s and robust must be positive, and balls at least 1")
        if self.couple_limit_s is not None and not self.couple_limit_s > 0:
            raise ValueError(f"couple_limit_s must be positive, not {self.couple_limit_s:g}")
        if not self.simplify_limit_s > 0:
            raise ValueError(f"simplify_limit_s must be positive, not {self.simplify_limit_s:g}")
        if self.seed < 0:
            raise ValueError(f"seed cannot be negative, not {self.seed}")
        _check_domain(self)

    @property
    def domains(self) -> tuple[DomainSpec, ...] | None:
        """The declared domains: one for all inputs, or one each."""
        if self.domain is None:
            return None
        if isinstance(self.domain, str):
            return parse_domains(self.domain)
        return (DomainSpec(low=self.domain[0], high=self.domain[1]),)

    def _check_budget(self) -> None:
        given = {kind: getattr(self, kind) for kind in BUDGETS if getattr(self, kind) is not None}
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are different budgets; give one of them")
        if self.ratios and given:
            raise ValueError(f"ratios and {' and '.join(given)} are different budgets; give one of them")
        for kind, value in given.items():
            if kind == "speedup":
                if not (math.isfinite(value) and value > 1.0):
                    raise ValueError(f"speedup is how many times as fast, above 1, not {value:g}")
            elif kind == "latency_ms":
                if not (math.isfinite(value) and value > 0.0):
                    raise ValueError(f"latency_ms is a time above 0, not {value:g}")
            elif not 0.0 < value <= 1.0:
                raise ValueError(f"{kind} is a share above 0 and at most 1, not {value:g}")

    @property
    def budget(self) -> tuple[BudgetName, float]:
        """Which budget applies, and its share or its number."""
        for kind in BUDGETS:
            value: float | None = getattr(self, kind)
            if value is not None:
                return kind, value
        return "keep", 0.5


def _check_domain(settings: Settings) -> None:
    pair = settings.domain
    if isinstance(pair, tuple) and not (
        len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] < pair[1]
    ):
        raise ValueError(f"domain is a pair low,high with low below high, not {list(pair)}")
    try:
        _ = settings.domains
    except ValueError as error:
        raise ValueError(f"domain: {error}") from error


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and where each value came from: `default`, `flag`, `call`, `quick`, or the file's path."""

    settings: Settings
    origins: Mapping[str, str]

    def records(self) -> tuple[SettingRecord, ...]:
        """For `run.json`."""
        return tuple(
            SettingRecord(
                f.name, to_json(getattr(self.settings, f.name)), self.origins.get(f.name, "default")
            )
            for f in dataclasses.fields(Settings)
        )


def resolve(
    given: Mapping[str, Any], file: Path | None = None, origin: str = "flag", search: bool = True
) -> Resolved:
    """Lay given values over the file's, over the defaults.

    Args:
        given: values by field name; None means not given.
        file: a configuration file; by default `edgeprune.toml`, or `pyproject.toml` if it has
            a table for edgeprune, in the current folder.
        origin: what to call the source of `given`.
        search: look for a configuration file where none is named.

    Raises:
        ConfigError: the file is malformed or names an unknown setting.
        UsageError: a given value is out of range.
    """
    path, content = read_config(file) if file is not None or search else (None, {})
    flags = {name: value for name, value in given.items() if value is not None and value != ()}
    kinds = (*BUDGETS, "ratios")
    if any(kind in flags for kind in kinds):
        content = {key: value for key, value in content.items() if key not in kinds}
    limits = flags.pop("limits", Limits())
    from_file = read_table(Settings, content, str(path or "edgeprune.toml"))
    merged = limits.over(from_file.limits)
    hurried = QUICK if flags.get("quick", content.get("quick", False)) else {}
    hurried = {name: value for name, value in hurried.items() if name not in flags and name not in content}
    try:
        settings = dataclasses.replace(from_file, **flags, **hurried, limits=merged)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    origins = {name: str(path) for name in content} | dict.fromkeys(flags, origin)
    origins |= dict.fromkeys(hurried, "quick")
    if limits.anything():
        origins["limits"] = origin if "limits" not in content else f"{path} and {origin}"
    return Resolved(settings, origins)


def read_config(file: Path | None) -> tuple[Path | None, dict[str, Any]]:
    """The table of settings in a file, and the file's path; empty if there is none to read.

    Raises:
        ConfigError: a file that was asked for is missing, or is malformed.
    """
    if file is None:
        file = next(
            (path for path in (Path("edgeprune.toml"), Path("pyproject.toml")) if path.is_file()), None
        )
        if file is None or (file.name == "pyproject.toml" and not _mentions(file)):
            return None, {}
    content = read_toml(file)
    if file.name == "pyproject.toml":
        content = content.get("tool", {}).get("edgeprune", {})
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: [tool.edgeprune] must be a table.")
    if isinstance(content.get("target"), str):
        content = {**content, "target": [content["target"]]}
    return file, content


def _mentions(file: Path) -> bool:
    try:
        return "edgeprune" in tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError, TypeError):
        return False  # not ours to complain about
