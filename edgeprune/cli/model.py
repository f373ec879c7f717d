"""From a command's parameters to a loaded model and resolved settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.cli.options import given
from edgeprune.config import Resolved, Settings, resolve
from edgeprune.errors import UsageError
from edgeprune.records.run import Run
from edgeprune.records.versions import stored

if TYPE_CHECKING:
    from edgeprune.inputs.models import Loaded


def loaded_and_resolved(model: str | None, values: dict[str, Any]) -> tuple[Loaded, Resolved]:
    """Settings first, so that a wrong flag is told before anything is imported; then the model.

    Raises:
        UsageError: settings or the model are wrong, or no model is named.
    """
    resolved = resolve(
        {**given(values), "model": model or None}, values.get("config"), search=values.get("look", True)
    )
    settings = resolved.settings
    if not settings.model:
        raise UsageError(
            "no model is named; give package.module:factory or path/to/file.py:factory, or set model in "
            "edgeprune.toml."
        )
    from edgeprune.inputs.models import load_model

    loaded = load_model(settings.model, settings.weights, trust_pickle=settings.trust_pickle)
    return loaded, resolved


def of_run(folder: Path, values: dict[str, Any]) -> tuple[Loaded, Resolved]:
    """The model and the settings that a run was made with, with some settings changed.

    Raises:
        UsageError: there is no run, or its model cannot be loaded from here.
    """
    record = Run.load(folder)
    kept = {s.name: s.value for s in record.settings if s.value is not None}
    settings = stored(Settings, kept, f"{folder}/run.json: settings", record.environment.edgeprune)
    changes = given(values)
    if "limits" in changes:
        changes["limits"] = changes["limits"].over(settings.limits)
    try:
        settings = dataclasses.replace(settings, **changes)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    origins = {s.name: s.origin for s in record.settings} | dict.fromkeys(changes, "flag")
    if not record.model.factory:
        raise UsageError(
            f"{folder}: was made from a module in a program, not from a named factory; call "
            "edgeprune.pipeline.again with that module instead."
        )
    from edgeprune.inputs.models import load_model

    loaded = load_model(record.model.factory, settings.weights, trust_pickle=settings.trust_pickle)
    return loaded, Resolved(settings, origins)
