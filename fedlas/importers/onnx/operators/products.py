"""ONNX's matrix products."""

from __future__ import annotations

from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.activations import fused_activation
from fedlas.importers.onnx.operators.table import operator


class GemmAttributes(TypedDict, total=False):
    """`alpha·a·b + beta·c`, with a and b transposed where so told."""

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
