"""ONNX's matrix products and attention, also as ONNX Runtime's optimiser writes it: fused, masked, embedded."""

from __future__ import annotations

import math
from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.elementwise import fused_activation
from fedlas.importers.onnx.operators.table import operator


class GemmAttributes(TypedDict, total=False):
    """`alpha·a·b + beta·c`, with a and b transposed where asked for."""

    alpha: float
    beta: float
    transA: int
    transB: int


@operator("Gemm")
def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **attributes: Unpack[GemmAttributes]) -> Tensor:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    a, weight = (a.T if attributes.get("transA") else a), (b if attributes.get("transB") else b.T)
    if not a.is_floating_point():  # F.linear has no integers
        return (alpha * torch.matmul(a, weight.T) + (0 if c is None else beta * c)).to(a.dtype)
    if alpha == beta == 1.0 and (c is None or (c.ndim == 1 and len(c) == len(weight))):
        return F.linear(a, weight, c)
    product = alpha * F.linear(a, weight)
    return product if c is None else product + beta * c


@operator("com.microsoft.FusedGemm")
def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    **attributes: Unpack[GemmAttributes],
) -> Tensor:
    given = [value for value in (activation_alpha, activation_beta) if value is not None]
    return fused_activation(activation, gemm(a, b, c, **attributes), *given)


@operator("Einsum")
def einsum(*values: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *values)


@operator("com.microsoft.FusedMatMul")
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """`alpha·a·b`; a batch transposition moves the first axis behind the other batch axes, before the matrix ones."""
    a, b = (x.movedim(0, -2) if flag else x for x, flag in ((a, transBatchA), (b, transBatchB)))
    a, b = (x.mT if flag else x for x, flag in ((a, transA), (b, transB)))
    return alpha * torch.matmul(a, b)


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
    """Scaled dot products over (N, heads, L, d) or (N, L, heads·d); a query that may see no key yields zeros."""
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


def _bias(query: Tensor, keys: int, bias: Tensor | None, *, causal: bool) -> Tensor | None:
    """A mask as what is added to the scores: minus infinity where a query must not see a key."""
    if bias is not None:
        if bias.dtype is torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -math.inf)
        bias = F.pad(bias, (0, keys - bias.shape[-1]), value=-math.inf)  # keys beyond the mask's end are hidden
    if causal:
        bias = _add(bias, query.new_full((query.shape[2], keys), -math.inf).triu(1))
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
        total = _add(total, query.new_full((query.shape[2], key.shape[2]), fill).triu(1))
    return F.scaled_dot_product_attention(query, key, value, _add(total, bias), scale=scale or None)


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
