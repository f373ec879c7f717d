"""Paper 3 for whole networks: a selected coreset from which all layers are learned at once.

The units are those of `gram`. The shrunk net is then trained, all its layers together, to give the
original's outputs on unlabelled queries (`edgeprune.stages.finetune`), and a control of the same widths
is trained from random weights beside it.

Source:
    Maalouf, Eini, Mussay, Feldman, Osadchy, "A Unified Approach to Coreset Learning", TNNLS 2022. Their
    runs select no unit and start from random weights: that is our control.
"""

from __future__ import annotations

from typing import ClassVar

from edgeprune.coresets.gram import Gram


class Learned(Gram):
    """Choose by elimination, then match every layer to the original's outputs."""

    name: ClassVar[str] = "learned"
    needs_samples: ClassVar[bool] = True
    matches: ClassVar[bool] = True
    source: ClassVar[str] = "Maalouf et al., TNNLS 2022, started from a selected coreset"
