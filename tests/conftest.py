"""One thread and no randomness of their own for all tests; and in CI, no test that is skipped in silence."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.load_profile("ci")

DEMANDED = os.environ.get("EDGEPRUNE_DEMAND_TARGETS") == "1"
MAY_BE_SKIPPED = ("root may write anywhere", "this onnxruntime has ")
"""Reasons that are no lack of the machine: the tests are about the lack of something that is there."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Where every target is demanded, a skipped test fails."""
    return _demanded((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """The same for a whole file that skips itself."""
    return _demanded((yield))


def _demanded(report: Any) -> Any:
    if DEMANDED and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(words in reason for words in MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"EDGEPRUNE_DEMAND_TARGETS is set, and nothing may be skipped: {reason}"
    return report
