"""The attention operators that ONNX Runtime's optimiser writes: fused products, masks and embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.attention import merge_heads, split_heads
from fedlas.importers.onnx.operators.table import operator


def _padding_bias(mask: Tensor | None, keys: int, fill: float, dtype: torch.dtype) -> Tensor | None:
    """From a mask of (N, keys), (N, queries, keys) with 1 for what is seen, or of (N,) lengths."""
    if mask is None:
        return None
    if mask.ndim == 1:
        mask = torch.arange(keys, device=mask.device) < mask[:, None]
    if mask.ndim not in (2, 3):
        raise UnsupportedModel("unsupported_operator", f"fused attention with a mask of rank {mask.ndim}")
    hidden = (mask == 0)[:, None, None] if mask.ndim == 2 else (mask == 0)[:, None]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, fill)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    fill: float,
    causal: bool,
    scale: float,
) -> Tensor:
    total = _padding_bias(mask, key.shape[2], fill, query.dtype)
    if causal:
        hidden = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1)
        total = _add(total, torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, fill))
    total = _add(total, bias)
    return F.scaled_dot_product_attention(query, key, value, total, scale=scale or None)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


@operator("com.microsoft.Attention")
def packed_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    qkv_hidden_sizes: tuple[int, ...] = (),
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Tensor, ...]:
    """Self-attention with one matrix for queries, keys and values."""
    if past is not None:
        raise UnsupportedModel("unsupported_operator", "fused Attention with a past is not supported")
    joint = F.linear(x, weight.T, bias)
    sizes = list(qkv_hidden_sizes) or [joint.shape[-1] // 3] * 3
    query, key, value = (split_heads(part, num_heads) for part in joint.split(sizes, -1))
    out = _fused(query, key, value, mask, attention_bias, mask_filter_value, bool(unidirectional), scale)
    return (merge_heads(out),)


@operator("com.microsoft.MultiHeadAttention")
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Tensor, ...]:
    """Attention over (N, L, heads·d) with a joint bias, a padding mask and a bias of the scores."""
    if past_key is not None or past_value is not None or key is None or value is None or query.ndim != 3:
        raise UnsupportedModel("unsupported_operator", "MultiHeadAttention is supported with separate (N, L, D) inputs")
    if bias is not None:
        width = query.shape[-1]
        query, key, value = query + bias[:width], key + bias[width : 2 * width], value + bias[2 * width :]
    q, k, v = (split_heads(part, num_heads) if part.ndim == 3 else part for part in (query, key, value))
    out = _fused(q, k, v, mask, attention_bias, mask_filter_value, bool(unidirectional), scale)
    return (merge_heads(out),)


@operator("com.microsoft.EmbedLayerNormalization")
def embed_layer_normalization(
    tokens: Tensor,
    segments: Tensor | None,
    words: Tensor,
    places: Tensor,
    kinds: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Tensor, ...]:
    """LayerNorm of the sum of a token's embeddings; then the number of real tokens of each row, and the sum."""
    at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions.long()
    total = F.embedding(tokens.long(), words) + F.embedding(at, places)
    if segments is not None and kinds is not None:
        total = total + F.embedding(segments.long(), kinds)
    counts = torch.zeros_like(tokens[:, 0], dtype=torch.int32) if mask is None else mask.sum(1, dtype=torch.int32)
    return F.layer_norm(total, total.shape[-1:], scale, shift, epsilon), counts, total
