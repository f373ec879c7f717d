"""What the certificate gains and the mean error pays when readers are weighed for both.

    python -m benchmarks.minimax [--quick] [--json FILE]

LeNet-300-100 on MNIST at half its units (`gram`, the bundled calibration set), `--minimax-lambda` from 0 up:
Δ-CROWN's bound over all images in [0, 1] and within ±0.05 of the first held-out one, the error that a search
of the box finds, the mean error of the held-out images (linf of the logits) and their test error.
`--quick` tries 0 and 1.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.bounds.attack import attack
from edgeprune.bounds.crown import Effort, crown
from edgeprune.certificates.deterministic import ball
from edgeprune.certificates.distribution import linf_errors
from edgeprune.certificates.twins import twins_of
from edgeprune.config import resolve
from edgeprune.inputs.models import load_model
from edgeprune.inputs.preparation import prepare
from edgeprune.line.planning import allotted, planned
from edgeprune.line.steps import as_traced
from edgeprune.progress import silent
from edgeprune.stages.couple import couple
from edgeprune.stages.parity import torch_outputs
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace


def figures(trade: float) -> dict[str, float]:
    """What one λ gives."""
    given = {"calibration": "mnist", "keep": 0.5, "minimax_lambda": trade}
    loaded = load_model("edgeprune.demo.lenet:build", None)
    line = prepare(loaded, resolve(given, search=False).settings)
    coupling = couple(trace(loaded.module, line.inputs), ())
    plan = planned(line, coupling, allotted(line, coupling, silent), silent)
    shrunk = shrink(loaded.module, coupling, plan, as_traced(coupling, line.inputs), ())
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    pair = twins_of(coupling.graph, shrunk.graph, alive, [x[:1] for x in line.inputs])
    assert line.domains is not None
    box = line.domains[0]
    near = ball(torch.from_numpy(line.holdout[0][0]), 0.05, box, False)
    effort = Effort(steps=20)
    bounds = [
        crown(pair.twins, [d], pair.shapes, pair.inputs, pair.outputs, effort).linf or np.inf
        for d in (box, near)
    ]
    f, g = (net.double() for net in (loaded.module, shrunk.module))
    found = attack(
        lambda x: f(*x) - g(*x), [box], pair.shapes, generator=torch.Generator().manual_seed(0),
        seeds=(torch.from_numpy(line.holdout[0][:256]).double(),), restarts=16, steps=60,
    )  # fmt: skip
    reference, pruned = (torch_outputs(net, line.holdout, 256) for net in (f, g))
    assert line.labels is not None
    return {
        "bound over the box": bounds[0],
        "bound within .05": bounds[1],
        "attacked over the box": found.value,
        "mean error": float(linf_errors(reference, pruned).mean()),
        "test error, %": float((pruned[0].argmax(1) != line.labels).mean() * 100),
    }


def main() -> None:
    """Print the table."""
    chosen = options(__doc__).parse_args()
    rows = environment_rows()
    for trade in (0.0, 1.0) if chosen.quick else (0.0, 0.1, 1.0, 10.0, 100.0):
        rows += [Row(f"λ = {trade:g}", "", "", name, value, "", 0) for name, value in figures(trade).items()]
    finish(rows, by_figure, chosen.json)


if __name__ == "__main__":
    main()
