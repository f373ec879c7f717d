"""Sessions that run on the asked provider or not at all, and the proof that they do."""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import Any

CPU = "CPUExecutionProvider"


class JobError(Exception):
    """What was asked cannot be done here; the text says why and what to do."""


def prepare(ort: Any, asked: dict[str, Any]) -> None:
    """Load a plugin provider, and refuse a provider that is not there.

    Raises:
        JobError: the provider, its library or a device of it is missing.
    """
    provider = asked["provider"]
    if asked["plugin"]:
        if not hasattr(ort, "register_execution_provider_library"):
            raise JobError(
                f"onnxruntime {ort.__version__} takes no plugin providers; install 1.23 or newer there"
            )
        library = _library(asked["plugin"])
        try:
            ort.register_execution_provider_library(provider, library)  # some take their name from it
        except Exception as error:
            raise JobError(f"the plugin {library} cannot be loaded: {error}") from error
        devices(ort, asked)
    elif provider not in ort.get_available_providers():
        raise JobError(
            f"onnxruntime {ort.__version__} has no {provider}, only "
            f"{', '.join(ort.get_available_providers())}; install the onnxruntime that brings it"
        )


def _library(plugin: str) -> str:
    """A plugin is a library's path, or a Python package that knows where its library lies."""
    if "/" in plugin or "\\" in plugin or plugin.endswith((".so", ".dll", ".dylib")):
        return str(Path(plugin).expanduser())
    try:
        return str(importlib.import_module(plugin).get_library_path())
    except ImportError as error:
        raise JobError(
            f"the plugin package {plugin} cannot be imported ({error}); install it on the target "
            f"(pip install {plugin.replace('_', '-')})"
        ) from error


def devices(ort: Any, asked: dict[str, Any]) -> list[Any]:
    """The device of a plugin provider to run on: the first of the asked kind.

    Raises:
        JobError: the plugin sees none.
    """
    found = [d for d in ort.get_ep_devices() if d.ep_name == asked["provider"]]
    kinds = [str(d.device.type).rpartition(".")[2].lower() for d in found]
    chosen = [d for d, kind in zip(found, kinds, strict=True) if asked["device"] in ("any", kind)]
    if not chosen:
        seen = f"only of kind {', '.join(sorted(set(kinds)))}" if kinds else "none at all"
        raise JobError(
            f"{asked['provider']} finds no device of kind '{asked['device']}' here, {seen}; look at the "
            "device's driver, or at the environment that the target sets"
        )
    return chosen[:1]


def session(ort: Any, job: dict[str, Any], model: Path | bytes, trace: Path | None = None) -> Any:
    """A session that runs on the asked provider or not at all.

    Args:
        ort: the module onnxruntime.
        job: the job.
        model: a file, or a model's bytes.
        trace: where the session's own trace goes, a beginning of a file name; None for no trace.
    """
    asked = job["runtime"]
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = asked["intra"]
    options.inter_op_num_threads = asked["inter"]
    options.use_deterministic_compute = asked["deterministic"]
    options.graph_optimization_level = {
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[asked["optimization"]]
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if asked["spinning"] else "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "1" if asked["spinning"] else "0")
    if trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace)
    alone = asked["provider"] != CPU and not asked["allow_fallback"]
    if alone:  # listing the CPU provider beside this entry is an error
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    source = model if isinstance(model, bytes) else str(model)
    if asked["plugin"]:
        options.add_provider_for_devices(devices(ort, asked), asked["options"])
        made = ort.InferenceSession(source, options, enable_fallback=0)
    else:
        providers: list[Any] = [(asked["provider"], asked["options"])]
        if asked["provider"] != CPU and asked["allow_fallback"]:
            providers.append(CPU)
        made = ort.InferenceSession(source, options, providers=providers, enable_fallback=0)
    made.disable_fallback()
    return made


def placement(made: Any, asked: dict[str, Any]) -> dict[str, int]:
    """Nodes by provider, proved to be where they were asked to be.

    Raises:
        JobError: fewer nodes than asked run on the provider, or it cannot be told.
    """
    provider = asked["provider"]
    if provider not in made.get_providers():
        raise JobError(f"the session runs on {', '.join(made.get_providers())}, not on {provider}")
    if not hasattr(made, "get_provider_graph_assignment_info"):
        if provider == CPU:
            warnings.warn(
                "this onnxruntime does not tell where nodes run; only the CPU was listed", stacklevel=2
            )
            return {}
        raise JobError("this onnxruntime cannot tell where nodes run; install 1.24 or newer")
    found: dict[str, int] = {}
    for part in made.get_provider_graph_assignment_info():
        found[part.ep_name] = found.get(part.ep_name, 0) + len(part.get_nodes())
    there, total = found.get(provider, 0), sum(found.values())
    if there < total and not asked["allow_fallback"]:
        raise JobError(f"only {there} of {total} nodes run on {provider}: {found}")
    if total and not there:
        raise JobError(f"none of {total} nodes runs on {provider}: {found}")
    if there < total:
        warnings.warn(f"{total - there} of {total} nodes fell back: {found}", stacklevel=2)
    return found


def pin(cpus: list[int]) -> None:
    """Keep this process and all of its threads on some CPUs; an empty list leaves it free.

    Raises:
        JobError: the system cannot, or has no such CPU.
    """
    if not cpus:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise JobError("this system cannot pin a process to CPUs; remove [threads] cpus from the target")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise JobError(f"cannot pin to the CPUs {cpus} ({error.strerror}); see [threads] cpus") from error
