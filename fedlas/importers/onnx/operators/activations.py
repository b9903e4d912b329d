"""ONNX's activation functions, element by element or along one axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import enter_all, operator

enter_all(
    {
        "HardSwish": F.hardswish,
        "Mish": F.mish,
        "Relu": F.relu,
        "Sigmoid": torch.sigmoid,
        "Softplus": F.softplus,
        "Softsign": F.softsign,
        "Tanh": torch.tanh,
    }
)


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
    """`x·sigmoid(alpha·x)`."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("com.microsoft.QuickGelu")
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return swish(x, alpha=alpha)


@operator("SwiGLU")
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(gate, alpha=alpha) * x


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    inside = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, inside))


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


#: What layers call by name, in lower case: the function, and its parameters' defaults. Two of them are no operators.
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
    """A function of a tensor and parameters, and the defaults of these.

    Raises:
        UnsupportedModel: `unsupported_operator` for one that is not known.
    """
    if name.lower() not in _NAMED:
        raise UnsupportedModel("unsupported_operator", f"a layer with activation {name!r} is not supported")
    return _NAMED[name.lower()]


def fused_activation(name: str, x: Tensor, *parameters: float) -> Tensor:
    """The activation that ONNX Runtime's optimiser has put into the layer before it."""
    function, defaults = named_activation(name)
    return function(x, *parameters, *defaults[len(parameters) :])
