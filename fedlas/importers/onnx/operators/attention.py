"""ONNX's Attention and RotaryEmbedding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.table import operator


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, heads·d) → (N, heads, L, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, L, d) → (N, L, heads·d)."""
    return x.transpose(1, 2).flatten(2)


@operator("Attention")
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 1,
    q_num_heads: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot products over (N, heads, L, d), or over (N, L, heads·d) with the numbers of heads as attributes.

    A query that may see no key yields zeros.
    """
    packed = query.ndim == 3
    if packed:
        query = split_heads(query, q_num_heads)
        key, value = (split_heads(t, kv_num_heads) for t in (key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bias = _bias(query, key.shape[2], mask, causal=bool(is_causal))
    out = F.scaled_dot_product_attention(query, key, value, bias, scale=scale)
    if bias is not None:
        out = torch.where((bias == -math.inf).all(-1, keepdim=True), 0.0, out)
    return merge_heads(out) if packed else out


def _bias(query: Tensor, keys: int, mask: Tensor | None, *, causal: bool) -> Tensor | None:
    """What is added to the scores: the mask, and minus infinity where a query must not see a key."""
    bias = mask
    if bias is not None:
        if bias.dtype is torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -math.inf)
        bias = F.pad(bias, (0, keys - bias.shape[-1]), value=-math.inf)  # keys beyond the mask's end are hidden
    if causal:
        hidden = torch.ones(query.shape[2], keys, dtype=torch.bool, device=query.device).triu(1)
        wall = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, -math.inf)
        bias = wall if bias is None else bias + wall
    return bias


@operator("RotaryEmbedding")
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Turns pairs of features of (N, heads, L, d), or of (N, L, heads·d), by angles that depend on the position."""
    heads = split_heads(x, num_heads) if x.ndim == 3 else x
    width = rotary_embedding_dim or heads.shape[-1]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, rest = heads[..., :width], heads[..., width:]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    pairs = torch.stack((real, imaginary), -1).flatten(-2) if interleaved else torch.cat((real, imaginary), -1)
    result = torch.cat((pairs, rest), -1)
    return merge_heads(result) if x.ndim == 3 else result
