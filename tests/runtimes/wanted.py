"""Targets that not every machine has: skipped with the reason, or demanded."""

from __future__ import annotations

import os

import pytest

DEMANDED = os.environ.get("EDGEPRUNE_DEMAND_TARGETS") == "1"


def missing(reason: str) -> None:
    """Skip this test, or fail it where every target is demanded (as in CI)."""
    if DEMANDED:
        pytest.fail(f"EDGEPRUNE_DEMAND_TARGETS is set, but {reason}")
    pytest.skip(reason)
