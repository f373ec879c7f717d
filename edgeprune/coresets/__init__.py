"""The room of coresets: one file a method, and this table of contents.

To add a method, write a `Coreset` in a file of this folder and name an instance of it in
`CORESETS`; or register an instance from another distribution under `edgeprune.coresets`.
"""

from __future__ import annotations

from edgeprune.coresets.coreset import Coreset, Evidence, Hearing
from edgeprune.coresets.gram import Gram
from edgeprune.coresets.magnitude import Magnitude, MagnitudeL1
from edgeprune.coresets.sensitivity import Sensitivity, SensitivityDraws
from edgeprune.coresets.uniform import Uniform
from edgeprune.registry import Registry

CORESETS: Registry[Coreset] = Registry(
    "coresets",
    (Uniform(), Magnitude(), MagnitudeL1(), Sensitivity(), SensitivityDraws(), Gram()),
)

__all__ = ["CORESETS", "Coreset", "Evidence", "Hearing"]
