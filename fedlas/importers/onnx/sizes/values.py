"""Between which numbers the elements of operators' results lie, whatever the rows are.

Only what shape arithmetic is made of has a rule: all else may be any number of its type. Floats may be NaN beside their
bounds, and NaN becomes the least integer when it is cast; so does what is too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from fedlas.importers.onnx.graph import attribute
from fedlas.importers.onnx.sizes.known import Array, Known, is_whole, limits_of
from fedlas.importers.onnx.sizes.positions import READ
from fedlas.importers.onnx.sizes.shapes import numbers

Inputs = Sequence[Known | None]
Ends = tuple[Any, Any]
Rule = Callable[[NodeProto, Inputs], Ends]

RULES: dict[str, Rule] = {}
#: Results of these may overflow.
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sum", "Mean", "ReduceSum", "ReduceMean", "CumSum"})
#: Each element of the result is one of the inputs at these places, None for all of them.
MOVES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split",
                     "GatherElements", "GatherND", "Expand", "Tile", "Compress", "DepthToSpace", "SpaceToDepth",
                     "ReverseSequence", "GlobalMaxPool", "ai.onnx.ml.ArrayFeatureExtractor"), (0,)),
    "Concat": None,
}  # fmt: skip
#: Least and largest element of what is always between the two.
_BETWEEN = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax", "Hardmax", "EyeLike", "ai.onnx.ml.Binarizer",
                     "ai.onnx.ml.OneHotEncoder", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And",
                     "Or", "Xor", "Not", "IsNaN", "IsInf", "RegexFullMatch"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Softsign", "Sin", "Cos", "Erf", "Sign"), (-1.0, 1.0)),
}  # fmt: skip
#: Sums of n floats of 32 bits are off by n roundings at most.
_ROUNDING = 2.0**-23
#: Integers that are less fit into 32 bits.
_HALF = 2.0**31


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


def _given(inputs: Inputs, position: int) -> Known:
    known = inputs[position] if position < len(inputs) else None
    if known is None:
        raise KeyError(position)
    return known


def hull(parts: Sequence[Known]) -> Ends:
    """Bounds of all elements of several tensors."""
    return min(part.ends[0] for part in parts), max(part.ends[1] for part in parts)


def _widened(elem: int, low: Any, high: Any, count: float = 1.0) -> Ends:
    """What rounding may add to results of floats."""
    if is_whole(elem):
        return low, high
    share = _ROUNDING * (count + 2)
    return low - np.abs(low) * share, high + np.abs(high) * share


def _products(a: Array, b: Array) -> list[Array]:
    with np.errstate(invalid="ignore", over="ignore"):
        return [np.nan_to_num(x * y, nan=0.0, posinf=np.inf, neginf=-np.inf) for x in a for y in b]


@_rule("Add", "Sum")
def _add(node: NodeProto, inputs: Inputs) -> Ends:
    parts = [_given(inputs, i) for i in range(len(inputs))]
    return _widened(parts[0].elem, sum(part.low for part in parts), sum(part.high for part in parts), len(parts))


@_rule("Sub")
def _sub(node: NodeProto, inputs: Inputs) -> Ends:
    a, b = _given(inputs, 0), _given(inputs, 1)
    return _widened(a.elem, a.low - b.high, a.high - b.low)


@_rule("Mul")
def _mul(node: NodeProto, inputs: Inputs) -> Ends:
    a, b = _given(inputs, 0), _given(inputs, 1)
    corners = _products((a.low, a.high), (b.low, b.high))  # type: ignore[arg-type]
    return _widened(a.elem, np.minimum.reduce(corners), np.maximum.reduce(corners))


@_rule("Div")
def _div(node: NodeProto, inputs: Inputs) -> Ends:
    a, b = _given(inputs, 0), _given(inputs, 1)
    if b.ends[0] <= 0 <= b.ends[1]:
        return -np.inf, np.inf
    corners = _products((a.low, a.high), (1 / b.low, 1 / b.high))  # type: ignore[arg-type]
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    # Whole numbers are rounded towards nought; the reciprocal of a whole number is not exact.
    return (np.floor(low - 1e-6), np.ceil(high + 1e-6)) if is_whole(a.elem) else _widened(a.elem, low, high)


@_rule("Mod")
def _mod(node: NodeProto, inputs: Inputs) -> Ends:
    low, high = _given(inputs, 1).ends
    if not is_whole(_given(inputs, 1).elem) and _given(inputs, 1).tainted:
        return -np.inf, np.inf
    most = max(abs(low), abs(high))
    return (0.0 if low >= 0 and not attribute(node, "fmod", 0) else -most), most


@_rule("Neg")
def _neg(node: NodeProto, inputs: Inputs) -> Ends:
    return -_given(inputs, 0).high, -_given(inputs, 0).low


@_rule("Abs")
def _abs(node: NodeProto, inputs: Inputs) -> Ends:
    x = _given(inputs, 0)
    high = np.maximum(np.abs(x.low), np.abs(x.high))
    low = np.where((x.low <= 0) & (x.high >= 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    return low, high


@_rule("Relu")
def _relu(node: NodeProto, inputs: Inputs) -> Ends:
    return np.maximum(_given(inputs, 0).low, 0), np.maximum(_given(inputs, 0).high, 0)


@_rule("Floor", "Ceil", "Round")
def _rounded(node: NodeProto, inputs: Inputs) -> Ends:
    return np.floor(_given(inputs, 0).low), np.ceil(_given(inputs, 0).high)


@_rule("Sqrt")
def _sqrt(node: NodeProto, inputs: Inputs) -> Ends:
    high = np.sqrt(np.maximum(_given(inputs, 0).high, 0))
    return _widened(_given(inputs, 0).elem, np.zeros_like(high), high)


@_rule("Min", "Max")
def _extreme(node: NodeProto, inputs: Inputs) -> Ends:
    """Of floats only a bound that follows from no value holds: the least of NaN and 64 may be either of them.

    ONNX Runtime 1.31 takes the wrong one of two integers of 64 bits where several are compared at once and one does not
    fit into 32: min(3e9, 64) is 3e9. Such a result is one of the operands, no more is known.
    """
    parts = [_given(inputs, i) for i in range(len(inputs))]
    several = parts[0].elem == TensorProto.INT64 and not all(part.count == 1 for part in parts)
    if several and not all(part.ends[0] > -_HALF and part.ends[1] < _HALF for part in parts):
        return _fold(np.minimum, [part.low for part in parts]), _fold(np.maximum, [part.high for part in parts])
    sure = [part for part in parts if is_whole(part.elem) or not part.tainted]
    rest = [part for part in parts if part not in sure]
    lows, highs = [p.low for p in parts], [p.high for p in parts]
    if node.op_type == "Min":
        low = _fold(np.minimum, lows)
        high = _fold(
            np.minimum, [*(p.high for p in sure), *([_fold(np.maximum, [p.high for p in rest])] if rest else [])]
        )
        return low, high
    low = _fold(np.maximum, [*(p.low for p in sure), *([_fold(np.minimum, [p.low for p in rest])] if rest else [])])
    return low, _fold(np.maximum, highs)


def _fold(function: Any, parts: Sequence[Array]) -> Array:
    result = parts[0]
    for part in parts[1:]:
        result = function(result, part)
    return np.asarray(result)


@_rule("Clip")
def _clip(node: NodeProto, inputs: Inputs) -> Ends:
    x = _given(inputs, 0)
    low, high = x.low, x.high
    ends: list[Any] = []
    for position, name, free in ((1, "min", -np.inf), (2, "max", np.inf)):
        known = inputs[position] if position < len(inputs) else None
        if known is not None and (is_whole(known.elem) or not known.tainted):
            ends.append((known.low, known.high))
        elif known is not None:  # it may be NaN
            return _fold(np.minimum, [low, known.low]), _fold(np.maximum, [high, known.high])
        else:
            value = attribute(node, name, free)
            ends.append((value, value))
    (least_low, least_high), (most_low, most_high) = ends
    return np.minimum(np.maximum(low, least_low), most_low), np.minimum(np.maximum(high, least_high), most_high)


@_rule("Where")
def _where(node: NodeProto, inputs: Inputs) -> Ends:
    chosen, a, b = (_given(inputs, i) for i in range(3))
    if chosen.value is None:
        return np.minimum(a.low, b.low), np.maximum(a.high, b.high)
    return np.where(chosen.value, a.low, b.low), np.where(chosen.value, a.high, b.high)


@_rule("Cast", "CastLike", "BitCast")
def _cast(node: NodeProto, inputs: Inputs) -> Ends:
    """A float that an integer type does not hold becomes its least number, with 64 bits; with fewer it may be any."""
    x = _given(inputs, 0)
    target = (
        attribute(node, "to", 0) if node.op_type == "Cast" else (inputs[1].elem if len(inputs) > 1 and inputs[1] else 0)
    )
    least, largest = limits_of(target)
    if node.op_type == "BitCast" or not x.elem or x.elem == TensorProto.STRING:
        return least, largest
    if is_whole(x.elem) or not is_whole(target):
        return (least, largest) if target == TensorProto.BOOL else _widened(target, x.low, x.high)
    if not x.tainted and bool(np.all((x.low >= least) & (x.high <= largest))):
        return np.trunc(x.low), np.trunc(x.high)
    if target != TensorProto.INT64:
        inside = bool(np.all((x.low >= least) & (x.high <= largest)))
        return (least, np.maximum(np.trunc(x.high), 0)) if inside else (least, largest)
    return np.full_like(x.high, least), np.where(x.high < 2.0**53, np.maximum(np.trunc(x.high), 0), largest)


@_rule("ReduceSum", "CumSum")
def _sum(node: NodeProto, inputs: Inputs) -> Ends:
    x = _given(inputs, 0)
    low, high = x.ends
    count = x.count
    if x.shape is not None:
        try:
            axes = numbers(inputs, 1, attribute(node, "axes"))
            count = math.prod(x.shape[axis] for axis in axes) if axes else x.count
        except KeyError:
            pass
    if count is None:
        return -np.inf, np.inf
    return _widened(x.elem, min(0.0, low, low * count), max(0.0, high, high * count), count)


@_rule("ReduceMean", "Mean", "AveragePool", "GlobalAveragePool")
def _mean(node: NodeProto, inputs: Inputs) -> Ends:
    parts = [known for known in inputs if known is not None][: None if node.op_type == "Mean" else 1]
    low, high = hull(parts)
    return _widened(parts[0].elem, min(low, 0.0), max(high, 0.0), parts[0].count or 2**20)


@_rule("ReduceMax", "ReduceMin")
def _reduced(node: NodeProto, inputs: Inputs) -> Ends:
    """Of no elements at all the extreme may be any number."""
    x = _given(inputs, 0)
    return x.ends if x.fixed and x.count else limits_of(x.elem)


@_rule("ArgMax", "ArgMin", "NonZero")
def _place(node: NodeProto, inputs: Inputs) -> Ends:
    shape = _given(inputs, 0).shape
    return 0.0, np.inf if shape is None else float(max((*shape, 1)) - 1)


@_rule("OneHot")
def _one_hot(node: NodeProto, inputs: Inputs) -> Ends:
    return _given(inputs, 2).ends


@_rule("ConstantOfShape")
def _fill(node: NodeProto, inputs: Inputs) -> Ends:
    value = attribute(node, "value")
    number = float(numpy_helper.to_array(value).ravel()[0]) if value is not None else 0.0
    return number, number


@_rule("Range")
def _range(node: NodeProto, inputs: Inputs) -> Ends:
    return hull([_given(inputs, 0), _given(inputs, 1)])


@_rule("Pad", "Trilu")
def _padded(node: NodeProto, inputs: Inputs) -> Ends:
    x = _given(inputs, 0)
    fill = inputs[2].ends if node.op_type == "Pad" and len(inputs) > 2 and inputs[2] is not None else (0.0, 0.0)
    value = float(attribute(node, "value", 0.0)) if node.op_type == "Pad" else 0.0
    return min(x.ends[0], fill[0], value), max(x.ends[1], fill[1], value)


@_rule("ScatterND", "ScatterElements", "Scatter")
def _scatter(node: NodeProto, inputs: Inputs) -> Ends:
    if attribute(node, "reduction", b"none") != b"none":
        return -np.inf, np.inf
    return hull([_given(inputs, 0), _given(inputs, 2)])


@_rule("Dropout")
def _dropout(node: NodeProto, inputs: Inputs) -> Ends:
    return _given(inputs, 0).ends if len(inputs) < 3 else (-np.inf, np.inf)


def between(name: str, node: NodeProto, inputs: Inputs, position: int) -> Ends | None:
    """Bounds of the output at `position`, None where the operator has none."""
    if position:
        return (0.0, float(_given(inputs, 0).count or 0)) if name == "Unique" and _given(inputs, 0).shape else None
    if name in _BETWEEN:
        return _BETWEEN[name]
    if name in RULES:
        return RULES[name](node, inputs)
    if name in ("TopK", "Unique"):
        return _given(inputs, 0).ends
    if name in MOVES:
        places = MOVES[name]
        return hull([known for i, known in enumerate(inputs) if known is not None and (places is None or i in places)])
    return None


def result_type(node: NodeProto, name: str, inputs: Inputs, position: int) -> int:
    """The type of an output of the operators that this package has rules for."""
    first = inputs[0].elem if inputs and inputs[0] is not None else 0
    if name in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin") or (position and name in ("TopK", "Unique")):
        return int(TensorProto.INT64)
    if _BETWEEN.get(name) == (0.0, 1.0) and name in _BOOLEAN:
        return int(TensorProto.BOOL)
    if name == "Cast":
        return int(attribute(node, "to", 0))
    if name in ("CastLike", "Where"):
        return inputs[1].elem if inputs[1] is not None else 0
    if name == "OneHot":
        return inputs[2].elem if inputs[2] is not None else 0
    if name == "ConstantOfShape":
        value = attribute(node, "value")
        return int(TensorProto.FLOAT if value is None else value.data_type)
    if name == "EyeLike":
        return int(attribute(node, "dtype", first))
    if name in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        return int(attribute(node, "output_datatype", TensorProto.FLOAT))
    if name == "QuantizeLinear":
        return inputs[2].elem if len(inputs) > 2 and inputs[2] is not None else 0
    if name == "DequantizeLinear":
        return inputs[1].elem if inputs[1] is not None else 0
    if name == "ai.onnx.ml.LabelEncoder" or name not in READ:
        return 0
    if name == "com.microsoft.EmbedLayerNormalization":
        return int(TensorProto.INT32 if position == 1 else TensorProto.FLOAT)
    return first


_BOOLEAN = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN",
                      "IsInf", "RegexFullMatch"})  # fmt: skip
