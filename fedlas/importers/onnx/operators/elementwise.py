"""ONNX operators that work element by element: arithmetic, comparisons, bits, types, activation functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import enter_all, operator, torch_dtype

# Operators that PyTorch computes under the same definition: no attributes, inputs in the same order.
enter_all(
    {
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
        "HardSwish": F.hardswish,
        "Log": torch.log,
        "MatMul": torch.matmul,
        "Mish": F.mish,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "Reciprocal": torch.reciprocal,
        "Relu": F.relu,
        "Sigmoid": torch.sigmoid,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Softplus": F.softplus,
        "Softsign": F.softsign,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
        "Where": torch.where,
    }
)
enter_all(
    {
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
    },
    gradient=False,
)


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
    infinite = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        infinite = infinite | torch.isneginf(x)
    return infinite | torch.isposinf(x) if detect_positive else infinite


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Differentiable between floats; `saturate` and `round_mode` concern 8-bit floats only."""
    return x.to(torch_dtype(to))


@operator("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


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
    """Slopes broadcast; one for all or one a channel is what PyTorch's own function takes."""
    channels = slope.ndim == x.ndim - 1 and slope.numel() == x.shape[1] == slope.shape[0]
    if x.is_floating_point() and (slope.numel() == 1 or channels) and x.ndim > 1:
        return F.prelu(x, slope.reshape(-1))
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


@operator("com.microsoft.BiasGelu")
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("com.microsoft.QuickGelu")
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return swish(x, alpha=alpha)


@operator("SwiGLU")
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(gate, alpha=alpha) * x


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def _along(x: Tensor, axis: int | None, opset: int) -> tuple[Tensor, int]:
    """Below opset 13 everything from `axis` (default 1) on is one axis, after it only `axis` (default the last)."""
    if opset >= 13:
        return x, -1 if axis is None else axis
    start = (1 if axis is None else axis) % max(x.ndim, 1)
    return (x.flatten(start), -1) if start < x.ndim - 1 else (x, -1)


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    values, dim = _along(x, axis, opset)
    return torch.softmax(values, dim).view(x.shape)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    values, dim = _along(x, axis, opset)
    return torch.log_softmax(values, dim).view(x.shape)


#: Functions that layers call by name, in lower case, with their parameters' defaults. Two of them are no operators.
_NAMED: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "": (lambda x: x, ()),
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "clip": (torch.clamp, (-math.inf, math.inf)),
    "elu": (F.elu, (1.0,)),
    "hardsigmoid": (lambda x, a, b: hard_sigmoid(x, alpha=a, beta=b), (0.2, 0.5)),
    "hardswish": (F.hardswish, ()),
    "leakyrelu": (F.leaky_relu, (0.01,)),
    "relu": (F.relu, ()),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), (1.0, 1.0)),
    "sigmoid": (torch.sigmoid, ()),
    "softplus": (F.softplus, ()),
    "softsign": (F.softsign, ()),
    "tanh": (torch.tanh, ()),
    "thresholdedrelu": (lambda x, a: thresholded_relu(x, alpha=a), (1.0,)),
}


def named_activation(name: str) -> tuple[Callable[..., Tensor], tuple[float, ...]]:
    """A function of a tensor and parameters, and their defaults; raises UnsupportedModel (`unsupported_operator`)."""
    if name.lower() not in _NAMED:
        raise UnsupportedModel("unsupported_operator", f"a layer with activation {name!r} is not supported")
    return _NAMED[name.lower()]


def fused_activation(name: str, x: Tensor, *parameters: float) -> Tensor:
    """The activation that ONNX Runtime's optimiser has put into the layer before it."""
    function, defaults = named_activation(name)
    return function(x, *parameters, *defaults[len(parameters) :])
