"""torch's multi-head attention after it lost heads: the same parameters, smaller, under the same names.

`nn.MultiheadAttention` writes down that its heads together are as wide as what it hears, so it cannot run
without some of them. A narrowed one becomes an instance of the class here, which takes that width from its
weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NarrowedMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention of which any number of heads is left; their width is what it was.

    Arguments and results of a call are those of `nn.MultiheadAttention`.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What is attended to, and the shares of attention where they are asked for.

        Args:
            query: (batch, targets, width), (targets, batch, width) or (targets, width).
            key: the same with sources in place of targets.
            value: as key.
            key_padding_mask: (batch, sources); True or −∞ where a source is not looked at.
            attn_mask: (targets, sources) or (batch · heads, targets, sources), likewise; where it speaks of
                all the heads that there once were, those that are left are not known: RuntimeError.
            is_causal: that `attn_mask` is causal; a hint, as in torch.
        """
        single = query.dim() == 2
        if single:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, q, k.shape[-2])
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        if mask is not None and (grown := k.shape[-2] - mask.shape[-1]):
            mask = F.pad(mask, (0, grown))
        dropped = self.dropout if self.training else 0.0
        shares = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            shares = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropped)
            heard = shares @ v
            shares = shares.mean(1) if average_attn_weights else shares
        else:
            heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
        result = self.out_proj(heard.transpose(1, 2).flatten(2))
        if single:
            return result.squeeze(0), None if shares is None else shares.squeeze(0)
        return result if self.batch_first else result.transpose(0, 1), shares

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections, (batch, heads, positions, width of a head)."""
        packed: Tensor | None = self.in_proj_weight
        if packed is not None:
            weights = packed.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, b.expand(len(x), -1, -1)], 1) for x, b in ((k, self.bias_k), (v, self.bias_v))
            )
        parted = [x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for x in (q, k, v)]
        return parted[0], parted[1], parted[2]

    def _mask(
        self, attention: Tensor | None, padding: Tensor | None, query: Tensor, sources: int
    ) -> Tensor | None:
        """What is added to the scores, for (batch, heads, targets, sources)."""
        batch = len(query)
        if attention is not None:
            attention = _added(attention, query)
            if attention.dim() == 3:
                attention = attention.reshape(batch, self.num_heads, *attention.shape[-2:])
        if padding is None:
            return attention
        padding = _added(padding, query)[:, None, None]
        if attention is not None and attention.shape[-1] != padding.shape[-1]:
            raise RuntimeError(f"the masks speak of {attention.shape[-1]} and {padding.shape[-1]} sources")
        return padding if attention is None else attention + padding


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers that are added to scores."""
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def narrow_attention(module: nn.MultiheadAttention) -> None:
    """Let a module run on the weights that it has now; its fast path, which cannot, is switched off."""
    packed = module.in_proj_weight
    module.embed_dim = module.out_proj.weight.shape[0]
    module.num_heads = (
        len(packed) // 3 if packed is not None else len(module.q_proj_weight)
    ) // module.head_dim
    module._qkv_same_embed_dim = False  # what torch asks before it takes the fast path
    module.__class__ = NarrowedMultiheadAttention


__all__ = ["NarrowedMultiheadAttention", "narrow_attention"]
