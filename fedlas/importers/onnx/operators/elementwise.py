"""ONNX operators that work element by element: arithmetic, comparisons, bits, types."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fedlas.importers.onnx.operators.dtypes import torch_dtype
from fedlas.importers.onnx.operators.table import Function, enter_all, operator

# Operators that PyTorch computes under the same definition: no attributes, inputs in the same order.
_SAME: dict[str, Function] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": torch.add,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tan": torch.tan,
    "Where": torch.where,
}
_SAME_WITHOUT_GRADIENT: dict[str, Function] = {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Equal": torch.eq,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Round": torch.round,
    "Sign": torch.sign,
    "Xor": torch.logical_xor,
}
enter_all(_SAME)
enter_all(_SAME_WITHOUT_GRADIENT, gradient=False)


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
    if exponent.ndim == 0 and exponent.device.type == "cpu" and not exponent.requires_grad:
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


@operator("Clip")
def clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    """Bounds are attributes below opset 11 and inputs from there on."""
    lower, upper = (min if low is None else low), (max if high is None else high)
    if lower is None and upper is None:
        return x
    if isinstance(lower, Tensor) != isinstance(upper, Tensor) and None not in (lower, upper):
        lower, upper = torch.as_tensor(lower, device=x.device), torch.as_tensor(upper, device=x.device)
    return torch.clamp(x, lower, upper)  # type: ignore[arg-type]


@operator("IsInf", gradient=False)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if detect_positive else found


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Differentiable between floats; `saturate` and `round_mode` concern 8-bit floats only."""
    return x.to(torch_dtype(to))


@operator("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)
