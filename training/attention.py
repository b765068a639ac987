"""Attention for short rows on CPU: matrix products by blocks of queries, with only the keys that a block may see.

torch's fused kernel for CPUs keeps no scores, which pays for long rows; it multiplies in small tiles, at half the rate
of a matrix product. At 256 positions this takes 0.7 times its processor time, there and back (docs/performance.md).

Suffixes: B sequences, H heads, K heads of keys and values, G = H / K, T positions, Q positions of a block, S positions
that it sees, D width of a head.
"""

# ruff: noqa: N803, N806

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_NAME = "causal_blocks"
_BLOCK = 64
_LONGEST = 512
"""Positions; above it the fused kernel. The backward pass needs the scores, whose number grows with the square."""


def causal_attention(
    query_BHTD: torch.Tensor, key_BKTD: torch.Tensor, value_BKTD: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Softmax attention of each position to itself and those before; shape [B, H, T, D]."""
    batch, heads, length, width = query_BHTD.shape
    num_kv_heads = key_BKTD.shape[1]
    parts = []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        query_BKXD = (query_BHTD[:, :, start:stop] * scaling).reshape(batch, num_kv_heads, -1, width)  # X = G x Q
        scores_BKXS = query_BKXD @ key_BKTD[:, :, :stop].mT
        scores_BKGQS = scores_BKXS.view(batch, num_kv_heads, -1, stop - start, stop)
        places_S = torch.arange(stop, device=query_BHTD.device)
        scores_BKGQS = scores_BKGQS.where(places_S[start:, None] >= places_S, -torch.inf)
        mixed_BKXD = scores_BKGQS.softmax(dim=-1).view_as(scores_BKXS) @ value_BKTD[:, :, :stop]
        parts.append(mixed_BKXD.view(batch, heads, stop - start, width))
    return torch.cat(parts, dim=2)


def use_causal_blocks(model: PreTrainedModel) -> None:
    """Let `model` attend this way where its rows are short and hold one document; elsewhere as before."""
    AttentionInterface.register(_NAME, _forward)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def _forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: [B, H, T, D] in, [B, T, H, D] out."""
    is_plain = attention_mask is None and not options.get("dropout") and options.get("sliding_window") is None
    if not is_plain or query.device.type != "cpu" or query.shape[2] > _LONGEST or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    return causal_attention(query, key, value, scaling).transpose(1, 2).contiguous(), None
