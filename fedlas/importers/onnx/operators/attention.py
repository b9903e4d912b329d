"""ONNX's Attention and RotaryEmbedding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.dtypes import torch_dtype
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
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid_keys: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    num_outputs: int = 1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Scaled dot products over (N, heads, L, d), or over (N, L, heads·d) with the numbers of heads as attributes.

    Further outputs are the keys and values with the past before them, and the scores (mode 0 raw, 1 capped, 2 masked,
    3 as probabilities). A query that may see no key yields zeros.
    """
    packed = query.ndim == 3
    if packed:
        query = split_heads(query, q_num_heads or 1)
        key, value = (split_heads(t, kv_num_heads or 1) for t in (key, value))
    before = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
    present = key, value
    if query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bias = _bias(query, key, mask, before, valid_keys, bool(is_causal), left_window_size, right_window_size)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if num_outputs < 4 and not softcap and (bias is None or (not is_causal and mask is not None and not before)):
        out, scores = F.scaled_dot_product_attention(query, key, value, bias, scale=factor), query
        if bias is not None:
            out = torch.where(_all_masked(bias), 0.0, out)
    else:
        out, scores = _attend(query, key, value, bias, factor, softcap, qk_matmul_output_mode, softmax_precision)
    out = merge_heads(out) if packed else out
    return out if num_outputs == 1 else (out, *present, scores)


def _bias(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    before: int,
    valid_keys: Tensor | None,
    causal: bool,
    left: int,
    right: int,
) -> Tensor | None:
    """What is added to the scores: the mask, and minus infinity where a query must not see a key."""
    queries, keys = query.shape[2], key.shape[2]
    bias = None if mask is None else _additive(mask, keys, query.dtype)
    column = torch.arange(keys, device=query.device)
    position = torch.arange(queries, device=query.device)[:, None] + before
    if valid_keys is not None:
        position = position + (valid_keys.reshape(-1, 1, 1, 1) - queries)
        bias = _forbid(bias, column >= valid_keys.reshape(-1, 1, 1, 1), query.dtype)
    distance = position - column
    if causal:
        bias = _forbid(bias, distance < 0, query.dtype)
    if left >= 0:
        bias = _forbid(bias, distance > left, query.dtype)
    if right >= 0:
        bias = _forbid(bias, -distance > right, query.dtype)
    return bias


def _additive(mask: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add; keys beyond its end are hidden."""
    missing = keys - mask.shape[-1]
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf)
    return F.pad(mask, (0, missing), value=-math.inf) if missing > 0 else mask


def _forbid(bias: Tensor | None, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    wall = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -math.inf)
    return wall if bias is None else bias + wall


def _all_masked(bias: Tensor) -> Tensor:
    return (bias == -math.inf).all(-1, keepdim=True)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float,
    mode: int,
    precision: int | None,
) -> tuple[Tensor, Tensor]:
    root = math.sqrt(scale)
    raw = torch.matmul(query * root, (key * root).mT)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    masked = capped if bias is None else capped + bias
    high = masked if precision is None else masked.to(torch_dtype(precision))
    probs = torch.softmax(high, -1).to(query.dtype)
    if bias is not None:
        probs = torch.where(_all_masked(bias), 0.0, probs)
    return torch.matmul(probs, value), (raw, capped, masked, probs)[mode]


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
