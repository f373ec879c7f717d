"""The room of coresets: one file a method, and this table of contents.

To add a method, write a `Coreset` in a file of this folder and name an instance of it in
`CORESETS`; or register an instance from another distribution under `edgeprune.coresets`.

Beside them:

    elimination   Greedy choice from second moments: from n units down, or from none up, with the whole …
"""

from __future__ import annotations

from edgeprune.coresets.bn_scale import BatchNormScale
from edgeprune.coresets.coreset import Coreset, Evidence, Hearing
from edgeprune.coresets.fpgm import Fpgm
from edgeprune.coresets.gram import Gram, GramForward, GramMix
from edgeprune.coresets.learned import Learned
from edgeprune.coresets.magnitude import Magnitude, MagnitudeL1
from edgeprune.coresets.pfp import Pfp
from edgeprune.coresets.refit import MagnitudeRefit
from edgeprune.coresets.sensitivity import Sensitivity, SensitivityDraws, SensitivityNeuron
from edgeprune.coresets.taylor import Taylor
from edgeprune.coresets.uniform import Uniform
from edgeprune.registry import Registry

CORESETS: Registry[Coreset] = Registry(
    "coresets",
    (
        Uniform(),
        Magnitude(),
        MagnitudeL1(),
        Fpgm(),
        BatchNormScale(),
        Taylor(),
        Pfp(),
        MagnitudeRefit(),
        Sensitivity(),
        SensitivityDraws(),
        SensitivityNeuron(),
        GramForward(),
        Gram(),
        GramMix(),
        Learned(),
    ),
)

__all__ = ["CORESETS", "Coreset", "Evidence", "Hearing"]
