"""Numbers of the user's own: a function over the outputs that a run saved.

    def wer(pruned, original, labels): ...

`pruned` and `original` are float arrays, samples first (a list of them where the model has several
outputs): what a target gave, and what the original torch net gives in float64. `labels` is None
where the samples have none.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeprune.errors import ConfigError
from edgeprune.files import write_bytes
from edgeprune.registry import suggestion
from edgeprune.verdict.limits import UserMetric

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

REFERENCE = Path("logs") / "reference.npz"
OUTPUTS = Path("logs") / "outputs"
_LABELS = "labels"


def keep_reference(folder: Path, outputs: Sequence[Array], labels: Array | None) -> None:
    """Save what metrics compare with: the original's outputs, and the samples' labels.

    Raises:
        StorageError: it cannot be written.
    """
    import numpy as np

    arrays = {f"{k:03d}": array for k, array in enumerate(outputs)}
    if labels is not None:
        arrays[_LABELS] = labels
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    (folder / REFERENCE).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / REFERENCE, stream.getvalue())


def load_function(metric: UserMetric) -> Callable[..., Any]:
    """The function that a metric names. Its code runs here.

    Raises:
        ConfigError: it cannot be imported, or is no function.
    """
    place, _, name = metric.function.rpartition(":")
    where = f"metric {metric.name} ({metric.function})"
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    except Exception as error:
        raise ConfigError(f"{where}: cannot be imported: {type(error).__name__}: {error}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        hint = suggestion(name, public) if public else "it defines no functions"
        raise ConfigError(f"{where}: {place} has no function '{name}'; {hint}")
    return function  # type: ignore[no-any-return]


def _from_file(path: Path) -> ModuleType:
    name = f"edgeprune_metric_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _from_package(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def measure(
    metrics: Sequence[UserMetric], folder: Path, targets: Sequence[str]
) -> dict[str, dict[str, float | str]]:
    """Compute every metric for every target.

    Returns:
        Metric → target → its value, or the reason why there is none: nothing was saved, the function
        raised, or what it returned is no finite number.

    Raises:
        ConfigError: a function cannot be imported.
    """
    functions = {metric.name: load_function(metric) for metric in metrics}
    found: dict[str, dict[str, float | str]] = {name: {} for name in functions}
    for target in targets if functions else ():
        try:
            reference = _read(folder / REFERENCE)
            pruned = _read(folder / OUTPUTS / f"{target}.npz")
        except (OSError, ValueError, KeyError, EOFError) as error:
            reason = f"the run's saved outputs cannot be read ({error}); make the run again"
            for name in functions:
                found[name][target] = reason
            continue
        labels = reference.pop(_LABELS, None)
        for name, function in functions.items():
            found[name][target] = _called(function, _plain(pruned), _plain(reference), labels)
    return found


def _read(path: Path) -> dict[str, Array]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in sorted(arrays.files)}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def _plain(arrays: dict[str, Array]) -> Any:
    """One array for one output, a list for several."""
    values = list(arrays.values())
    return values[0] if len(values) == 1 else values


def _called(function: Callable[..., Any], pruned: Any, original: Any, labels: Array | None) -> float | str:
    try:
        value = float(function(pruned, original, labels))
    except Exception as error:  # the user's own code may raise anything; the reason is told
        return f"its function raised {type(error).__name__}: {error}"
    return value if math.isfinite(value) else f"its function returned {value}"
