"""New sentences out of given ones, for trainings that have few: the beginning of one and the end of another.

Padded token ids and masks as `benchmarks.minilm.encoded` makes them: a first and a last token frame each
sentence. The original answers the new sentences itself, so no label is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sentences(ids: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each sentence its beginning, cut at random, and the end of another; its last token closes it.

    Args:
        ids: int64 (n, tokens), 0 behind the end.
        mask: int64 (n, tokens), 1 on the tokens of the sentence.

    Returns:
        Of the same shapes.
    """
    others = torch.randperm(len(ids), generator=generator)
    lengths = mask.sum(1).tolist()
    made, shown = torch.zeros_like(ids), torch.zeros_like(mask)
    for row, other in enumerate(others.tolist()):
        begin = int(torch.randint(1, max(2, lengths[row] - 1), (1,), generator=generator))
        end = int(torch.randint(1, max(2, lengths[other] - 1), (1,), generator=generator))
        tokens = torch.cat([ids[row, :begin], ids[other, end : lengths[other] - 1]])[: ids.shape[1] - 1]
        tokens = torch.cat([tokens, ids[row, lengths[row] - 1 : lengths[row]]])
        made[row, : len(tokens)], shown[row, : len(tokens)] = tokens, 1
    return made, shown
