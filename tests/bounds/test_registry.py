from __future__ import annotations

import importlib

import pytest

from edgeprune.bounds import BOUNDS
from edgeprune.records.run import LABELS


@pytest.mark.parametrize("name", BOUNDS)
def test_members_are_what_they_say(name: str) -> None:
    bound = BOUNDS[name]
    module, _, function = bound.function.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))
    assert bound.label in LABELS
    assert bound.scopes
    assert bound.needs
