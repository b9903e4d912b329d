"""Interval arithmetic: between which numbers the elements of elementwise results lie, whatever the rows are.

Only what shape arithmetic is made of has a rule. Floats may be NaN beside their bounds, and NaN becomes the least
integer when it is cast; so does what is too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from onnx import NodeProto, TensorProto

from fedlas.importers.onnx.graph import Array, attribute
from fedlas.importers.onnx.sizes.abstract_tensor import AbstractTensor, is_whole, limits_of
from fedlas.importers.onnx.sizes.shape_rules import Inputs, given

Ends = Array | float
Bounds = tuple[Ends, Ends]
Rule = Callable[[NodeProto, Inputs], Bounds]

RULES: dict[str, Rule] = {}
#: Sums of n floats of 32 bits are off by n roundings at most.
_ROUNDING = 2.0**-23
#: Integers below fit into 32 bits.
_INT32 = 2.0**31


def rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


def hull(parts: Sequence[AbstractTensor]) -> Bounds:
    """Bounds of all elements of several tensors."""
    return min(part.bounds[0] for part in parts), max(part.bounds[1] for part in parts)


def widened(elem: int, low: Ends, high: Ends, count: float = 1.0) -> Bounds:
    """What rounding may add to results of floats."""
    if is_whole(elem):
        return low, high
    share = _ROUNDING * (count + 2)
    return low - np.abs(low) * share, high + np.abs(high) * share


def _products(a: Bounds, b: Bounds) -> list[Array]:
    with np.errstate(invalid="ignore", over="ignore"):
        return [np.nan_to_num(x * y, nan=0.0, posinf=np.inf, neginf=-np.inf) for x in a for y in b]


@rule("Add", "Sum")
def _add(node: NodeProto, inputs: Inputs) -> Bounds:
    parts = [given(inputs, i) for i in range(len(inputs))]
    return widened(parts[0].elem, sum(part.low for part in parts), sum(part.high for part in parts), len(parts))


@rule("Sub")
def _sub(node: NodeProto, inputs: Inputs) -> Bounds:
    a, b = given(inputs, 0), given(inputs, 1)
    return widened(a.elem, a.low - b.high, a.high - b.low)


@rule("Mul")
def _mul(node: NodeProto, inputs: Inputs) -> Bounds:
    a, b = given(inputs, 0), given(inputs, 1)
    corners = _products((a.low, a.high), (b.low, b.high))
    return widened(a.elem, np.minimum.reduce(corners), np.maximum.reduce(corners))


@rule("Div")
def _div(node: NodeProto, inputs: Inputs) -> Bounds:
    a, b = given(inputs, 0), given(inputs, 1)
    if b.bounds[0] <= 0 <= b.bounds[1]:
        return -np.inf, np.inf
    corners = _products((a.low, a.high), (1 / b.low, 1 / b.high))
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    # Whole numbers are rounded towards nought; the reciprocal of a whole number is not exact.
    return (np.floor(low - 1e-6), np.ceil(high + 1e-6)) if is_whole(a.elem) else widened(a.elem, low, high)


@rule("Mod")
def _mod(node: NodeProto, inputs: Inputs) -> Bounds:
    low, high = given(inputs, 1).bounds
    if not is_whole(given(inputs, 1).elem) and given(inputs, 1).tainted:
        return -np.inf, np.inf
    most = max(abs(low), abs(high))
    return (0.0 if low >= 0 and not attribute(node, "fmod", 0) else -most), most


@rule("Neg")
def _neg(node: NodeProto, inputs: Inputs) -> Bounds:
    return -given(inputs, 0).high, -given(inputs, 0).low


@rule("Abs")
def _abs(node: NodeProto, inputs: Inputs) -> Bounds:
    x = given(inputs, 0)
    high = np.maximum(np.abs(x.low), np.abs(x.high))
    low = np.where((x.low <= 0) & (x.high >= 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    return low, high


@rule("Relu")
def _relu(node: NodeProto, inputs: Inputs) -> Bounds:
    return np.maximum(given(inputs, 0).low, 0), np.maximum(given(inputs, 0).high, 0)


@rule("Floor", "Ceil", "Round")
def _rounded(node: NodeProto, inputs: Inputs) -> Bounds:
    return np.floor(given(inputs, 0).low), np.ceil(given(inputs, 0).high)


@rule("Min", "Max")
def _extreme(node: NodeProto, inputs: Inputs) -> Bounds:
    """Of floats only a bound that follows from no value holds: the least of NaN and 64 may be either of them.

    ONNX Runtime 1.31 takes the wrong one of two integers of 64 bits where several are compared at once and one does not
    fit into 32: min(3e9, 64) is 3e9. Such a result is one of the operands, no more is known.
    """
    parts = [given(inputs, i) for i in range(len(inputs))]
    several = parts[0].elem == TensorProto.INT64 and not all(part.count == 1 for part in parts)
    if several and not all(part.bounds[0] > -_INT32 and part.bounds[1] < _INT32 for part in parts):
        return reduce(np.minimum, [part.low for part in parts]), reduce(np.maximum, [part.high for part in parts])
    # A float that follows from values may be NaN: such operands bound only one side.
    sure = [part for part in parts if is_whole(part.elem) or not part.tainted]
    rest = [part for part in parts if part not in sure]
    if node.op_type == "Min":
        highest = [reduce(np.maximum, [part.high for part in rest])] if rest else []
        return reduce(np.minimum, [p.low for p in parts]), reduce(np.minimum, [*(p.high for p in sure), *highest])
    lowest = [reduce(np.minimum, [part.low for part in rest])] if rest else []
    return reduce(np.maximum, [*(p.low for p in sure), *lowest]), reduce(np.maximum, [p.high for p in parts])


@rule("Clip")
def _clip(node: NodeProto, inputs: Inputs) -> Bounds:
    x = given(inputs, 0)
    low, high = x.low, x.high
    ends: list[Bounds] = []
    for position, name, free in ((1, "min", -np.inf), (2, "max", np.inf)):
        known = inputs[position] if position < len(inputs) else None
        if known is not None and (is_whole(known.elem) or not known.tainted):
            ends.append((known.low, known.high))
        elif known is not None:  # it may be NaN
            return np.minimum(low, known.low), np.maximum(high, known.high)
        else:
            value = attribute(node, name, free)
            ends.append((value, value))
    (least_low, least_high), (most_low, most_high) = ends
    return np.minimum(np.maximum(low, least_low), most_low), np.minimum(np.maximum(high, least_high), most_high)


@rule("Where")
def _where(node: NodeProto, inputs: Inputs) -> Bounds:
    chosen, a, b = (given(inputs, i) for i in range(3))
    if chosen.value is None:
        return np.minimum(a.low, b.low), np.maximum(a.high, b.high)
    return np.where(chosen.value, a.low, b.low), np.where(chosen.value, a.high, b.high)


@rule("Cast", "CastLike", "BitCast")
def _cast(node: NodeProto, inputs: Inputs) -> Bounds:
    """A float that an integer type does not hold becomes its least number, with 64 bits; with fewer it may be any."""
    x = given(inputs, 0)
    target = (
        attribute(node, "to", 0) if node.op_type == "Cast" else (inputs[1].elem if len(inputs) > 1 and inputs[1] else 0)
    )
    least, largest = limits_of(target)
    if node.op_type == "BitCast" or not x.elem or x.elem == TensorProto.STRING:
        return least, largest
    if is_whole(x.elem) or not is_whole(target):
        return (least, largest) if target == TensorProto.BOOL else widened(target, x.low, x.high)
    inside = bool(np.all((x.low >= least) & (x.high <= largest)))
    if inside and not x.tainted:
        return np.trunc(x.low), np.trunc(x.high)
    if target != TensorProto.INT64:
        return (least, np.maximum(np.trunc(x.high), 0)) if inside else (least, largest)
    return np.full_like(x.high, least), np.where(x.high < 2.0**53, np.maximum(np.trunc(x.high), 0), largest)
