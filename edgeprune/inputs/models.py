"""From what the user names to a torch model with weights and example inputs.

A model is `package.module:factory` or `path/to/file.py:factory`; the factory takes no arguments
and returns an `nn.Module`. A `.pt2` exported program needs no code, but may hold pickles.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import ModelError
from edgeprune.graph.calling import positional
from edgeprune.registry import suggestion

logger = logging.getLogger(__name__)

_INPUT = re.compile(r"^(?:(?P<name>[^=:]+)=)?(?P<dims>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?$")
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be traced.

    Attributes:
        module: in evaluation mode, on the CPU.
        name: for people: the factory's own name.
        factory: what was asked for.
        weights_sha256: digest of all parameters and buffers, names and bytes.
        inputs: example inputs that came with the factory, None if none did.
        notes: what was changed or chosen on the user's behalf, in sentences.
    """

    module: nn.Module
    name: str
    factory: str
    weights_sha256: str
    inputs: tuple[Tensor, ...] | None
    notes: tuple[str, ...] = ()


def load_model(spec: str, weights: str | None = None, *, trust_pickle: bool = False) -> Loaded:
    """Build a model and fill in its weights.

    Args:
        spec: `module:factory`, `file.py:factory`, or a `.pt2` file.
        weights: a `.safetensors` file; or a `.pt`/`.pth` file where pickles are trusted.
        trust_pickle: whether files that may run code when read are read at all.

    Raises:
        ModelError: whatever is wrong with any of them.
    """
    if spec.endswith(".pt2"):
        module, inputs, name = _load_program(Path(spec), trust_pickle), None, Path(spec).stem
    else:
        home, factory = _find_factory(spec)
        module, inputs = _called(_build(factory, spec), _inputs_beside(home, spec), spec)
        name = (
            spec.rpartition(":")[2] if type(module).__module__.startswith("torch.") else type(module).__name__
        )
    loaded = from_module(module, spec, name, inputs)
    if weights is None:
        return loaded
    fill_weights(loaded.module, Path(weights), trust_pickle)
    check_finite(loaded.module)
    return Loaded(loaded.module, name, spec, digest(loaded.module), inputs, loaded.notes)


def from_module(
    module: nn.Module, spec: str = "", name: str = "", inputs: tuple[Tensor, ...] | None = None
) -> Loaded:
    """A module that is already there, in evaluation mode.

    Raises:
        ModelError: it holds NaN or infinite weights.
    """
    notes = []
    if module.training:
        module.eval()
        notes.append("The factory returned the model in training mode; it was put into evaluation mode.")
    check_finite(module)
    return Loaded(module, name or type(module).__name__, spec, digest(module), inputs, tuple(notes))


def _find_factory(spec: str) -> tuple[ModuleType, Callable[[], Any]]:
    place, separator, attribute = spec.rpartition(":")
    if not separator or not place or not attribute:
        raise ModelError(
            f"{spec}: a model is named package.module:factory or path/to/file.py:factory "
            "(or a .pt2 file); the part behind the last ':' is a function that returns an nn.Module."
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    factory = getattr(module, attribute, None)
    if factory is None:
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        hint = suggestion(attribute, public) if public else "it defines no functions"
        raise ModelError(f"{place} has no '{attribute}'; {hint}")
    if not callable(factory):
        raise ModelError(f"{spec}: is a {type(factory).__name__}, not a function that returns an nn.Module.")
    return module, factory


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; check the path before the ':'.")
    name = f"edgeprune_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"{path}: fails when imported: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name}: cannot be imported ({error}); is it installed, or reachable from this folder? "
            "A file is named with its path: path/to/file.py:factory."
        ) from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name}: fails when imported: {type(error).__name__}: {error}") from error


def _build(factory: Callable[[], Any], spec: str) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    needed = [
        p.name
        for p in inspect.signature(factory).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if needed:
        raise ModelError(
            f"{spec}: needs arguments ({', '.join(needed)}); write a small function without "
            "arguments that calls it, and name that one."
        )
    try:
        module = factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec}: raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec}: returned a {type(module).__name__}, not an nn.Module.")
    return module


def _inputs_beside(home: ModuleType, spec: str) -> Any:
    """What `example_inputs()` beside the factory returns, None if there is none."""
    make = getattr(home, "example_inputs", None)
    if make is None:
        return None
    try:
        return make()
    except Exception as error:
        raise ModelError(f"{spec}: its example_inputs() raised {type(error).__name__}: {error}") from error


def _called(module: nn.Module, given: Any, spec: str) -> tuple[nn.Module, tuple[Tensor, ...] | None]:
    """The module as it is called with tensors alone, and those tensors.

    Raises:
        ModelError: the inputs hold no tensor.
    """
    if given is None:
        return module, None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(given, Mapping):  # also the dictionary-like batches of tokenizers
        kwargs = {str(key): value for key, value in given.items()}
    else:
        args = tuple(given) if isinstance(given, tuple | list) else (given,)
    if args and all(isinstance(x, Tensor) for x in args):
        return module, args
    bound, inputs = positional(module, args, kwargs)
    if not inputs:
        raise ModelError(
            f"{spec}: its example_inputs() must return a tensor or a tuple of tensors, or arguments or a "
            "dictionary of keywords with tensors among them."
        )
    return bound, inputs


def _load_program(path: Path, trust_pickle: bool) -> nn.Module:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; check the path.")
    if not trust_pickle:
        raise ModelError(
            f"{path}: an exported program may hold pickles, which run code when read; give "
            "--trust-pickle if you trust where it comes from."
        )
    try:
        module: nn.Module = torch.export.load(str(path)).module()
    except Exception as error:
        raise ModelError(f"{path}: is no exported program ({type(error).__name__}: {error}).") from error
    for part in module.modules():  # its mode was settled when it was exported; eval() refuses to run on it
        part.training = False
    return module


def fill_weights(module: nn.Module, path: Path, trust_pickle: bool = False) -> None:
    """Load a state dict from a file into a module; every name and shape must fit.

    Raises:
        ModelError: the file is missing, damaged, a pickle without consent, or does not fit.
    """
    if not path.is_file():
        raise ModelError(f"--weights {path}: there is no such file; check the path.")
    state = _read_state(path, trust_pickle)
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    if missing or extra:
        parts = [f"lack {missing[0]} (and {len(missing) - 1} more)"] if missing else []
        parts += [f"have {extra[0]} (and {len(extra) - 1} more), which it does not know"] if extra else []
        raise ModelError(f"--weights {path}: do not fit the model: they {' and '.join(parts)}.")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ModelError(
                f"--weights {path}: {name} has shape {tuple(value.shape)}, the model's has "
                f"{tuple(own[name].shape)}; give the weights of this very architecture."
            )
    module.load_state_dict(state, strict=False)


def _read_state(path: Path, trust_pickle: bool) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"--weights {path}: is damaged or no safetensors file ({error}).") from error
    if not trust_pickle:
        raise ModelError(
            f"--weights {path}: is not a .safetensors file, and reading a pickle can run code; convert "
            "it (safetensors.torch.save_file), or give --trust-pickle if you trust where it comes from."
        )
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"--weights {path}: cannot be read ({type(error).__name__}: {error}).") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"--weights {path}: holds no state dict; save model.state_dict() and nothing else.")
    return state


def check_finite(module: nn.Module) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        ModelError: names the first weight and the number of bad entries.
    """
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point():
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise ModelError(
                    f"{name}: {bad} of {value.numel()} entries are NaN or infinite; such a model "
                    "cannot be pruned or certified. Give weights from before it diverged."
                )


def digest(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers."""
    result = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            result.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
            result.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def parse_inputs(specs: Sequence[str], seed: int) -> tuple[Tensor, ...]:
    """Example inputs from descriptions such as `1x3x224x224` or `ids=1x64:int64`.

    Floating-point inputs are seeded standard normal noise, whole numbers are 0 or 1.

    Raises:
        ModelError: a description is malformed.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in specs:
        match = _INPUT.match(spec)
        if match is None:
            raise ModelError(
                f"--input {spec}: is not of the form [name=]sizes[:dtype], such as 1x3x224x224 or "
                "ids=1x64:int64."
            )
        dtype = match["dtype"] or "float32"
        if dtype not in DTYPES:
            raise ModelError(f"--input {spec}: unknown dtype '{dtype}'; {suggestion(dtype, list(DTYPES))}")
        sizes = [int(d) for d in match["dims"].split("x")]
        if 0 in sizes:
            raise ModelError(f"--input {spec}: a size of 0 leaves nothing to run on; sizes start at 1.")
        inputs.append(_noise(spec, sizes, DTYPES[dtype], generator))
    return tuple(inputs)


def _noise(spec: str, sizes: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    try:
        if dtype.is_floating_point:
            return torch.randn(sizes, generator=generator).to(dtype)
        return torch.randint(0, 2, sizes, generator=generator).to(dtype)
    except (RuntimeError, TypeError, MemoryError) as error:  # torch says it differently for each size
        raise ModelError(
            f"--input {spec}: is too large to be made ({math.prod(sizes):.3g} values); give the sizes of one "
            "sample, batch first."
        ) from error
