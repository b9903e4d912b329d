"""ONNX operators that work element by element: arithmetic, comparisons, activations; they know no layout."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.dtypes import torch_dtype
from fedlas.importers.onnx.operators.table import OPERATORS, Operator, operator

# Operators that PyTorch computes under the same definition: no attributes, inputs in the same order.
_SAME: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": torch.add,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Mish": F.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Xor": torch.logical_xor,
}
OPERATORS.update({name: Operator(function) for name, function in _SAME.items()})


@operator("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Integers divide towards zero, as in C."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@operator("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Pow")
def power(base: Tensor, exponent: Tensor) -> Tensor:
    """The result has the base's type, whatever the exponent's."""
    if exponent.ndim == 0 and not exponent.is_cuda and not exponent.requires_grad:
        return torch.pow(base, exponent.item()).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


@operator("Max")
def maximum(*values: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, values)


@operator("Min")
def minimum(*values: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, values)


@operator("Sum")
def add_all(*values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values)


@operator("Mean")
def mean_of(*values: Tensor) -> Tensor:
    return add_all(*values) / len(values)


@operator("Where")
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if detect_positive else found


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(torch_dtype(to))


@operator("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


@operator("Clip")
def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None, *,
         min: float | None = None, max: float | None = None) -> Tensor:  # fmt: skip
    """Bounds are attributes below opset 11 and inputs from there on."""
    lower, upper = (min if low is None else low), (max if high is None else high)
    if lower is None and upper is None:
        return x
    if isinstance(lower, Tensor) != isinstance(upper, Tensor) and None not in (lower, upper):
        lower, upper = torch.as_tensor(lower, device=x.device), torch.as_tensor(upper, device=x.device)
    return torch.clamp(x, lower, upper)  # type: ignore[arg-type]


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@operator("Selu")
def selu(x: Tensor, *, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("Gelu", "com.microsoft.Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@operator("com.microsoft.FastGelu")
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("com.microsoft.QuickGelu", "Swish")
def swish(x: Tensor, *, alpha: float | None = None, opset: int = 24) -> Tensor:
    """`x·sigmoid(alpha·x)`; alpha is 1 in the standard's Swish."""
    return F.silu(x) if alpha in (None, 1.0) else x * torch.sigmoid(alpha * x)


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    inside = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, inside))
