"""Value ranges of the results of reductions, choices, fillings and moves, whatever the rows are."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, numpy_helper

from fedlas.importers.onnx.graph import attribute, integers, tensor
from fedlas.importers.onnx.operators import words
from fedlas.importers.onnx.sizes.abstract_tensor import limits_of
from fedlas.importers.onnx.sizes.intervals import RULES, Bounds, hull, rule, widened
from fedlas.importers.onnx.sizes.shape_rules import Inputs, NoRule, given, numbers

#: Results of these may overflow.
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sum", "ReduceSum", "CumSum"})
#: Each element of the result is one of the first input, or of any of the inputs of a Concat.
MOVES = words(
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Split GatherElements GatherND Expand Tile "
    "Compress DepthToSpace SpaceToDepth ReverseSequence GlobalMaxPool TopK Unique Concat "
    "ai.onnx.ml.ArrayFeatureExtractor"
)
#: Least and largest element of what is always between the two.
_BETWEEN: dict[str, Bounds] = {
    **dict.fromkeys(
        words(
            "Sigmoid HardSigmoid Softmax Hardmax EyeLike Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not "
            "IsNaN IsInf RegexFullMatch ai.onnx.ml.Binarizer ai.onnx.ml.OneHotEncoder"
        ),
        (0.0, 1.0),
    ),
    **dict.fromkeys(words("Tanh Softsign Sin Cos Erf Sign"), (-1.0, 1.0)),
}


@rule("ReduceSum", "CumSum")
def _sum(node: NodeProto, inputs: Inputs) -> Bounds:
    x = given(inputs, 0)
    low, high = x.bounds
    count = x.count
    if x.shape is not None:
        try:
            axes = numbers(inputs, 1, integers(node, "axes"))
            count = math.prod(x.shape[axis] for axis in axes) if axes else x.count
        except NoRule:
            pass
    if count is None:
        return -np.inf, np.inf
    return widened(x.elem, min(0.0, low, low * count), max(0.0, high, high * count), count)


@rule("ReduceMax", "ReduceMin")
def _reduced(node: NodeProto, inputs: Inputs) -> Bounds:
    """Of no elements at all the extreme may be any number."""
    x = given(inputs, 0)
    return x.bounds if x.fixed and x.count else limits_of(x.elem)


@rule("ArgMax", "ArgMin", "NonZero")
def _place(node: NodeProto, inputs: Inputs) -> Bounds:
    shape = given(inputs, 0).shape
    return 0.0, np.inf if shape is None else float(max((*shape, 1)) - 1)


@rule("ConstantOfShape")
def _fill(node: NodeProto, inputs: Inputs) -> Bounds:
    value = tensor(node, "value")
    number = float(numpy_helper.to_array(value).ravel()[0]) if value is not None else 0.0
    return number, number


@rule("Range")
def _range(node: NodeProto, inputs: Inputs) -> Bounds:
    return hull([given(inputs, 0), given(inputs, 1)])


@rule("Pad", "Trilu")
def _padded(node: NodeProto, inputs: Inputs) -> Bounds:
    x = given(inputs, 0)
    fill = inputs[2].bounds if node.op_type == "Pad" and len(inputs) > 2 and inputs[2] is not None else (0.0, 0.0)
    value = float(attribute(node, "value", 0.0)) if node.op_type == "Pad" else 0.0
    return min(x.bounds[0], fill[0], value), max(x.bounds[1], fill[1], value)


@rule("ScatterND", "ScatterElements", "Scatter")
def _scatter(node: NodeProto, inputs: Inputs) -> Bounds:
    if attribute(node, "reduction", b"none") != b"none":
        return -np.inf, np.inf
    return hull([given(inputs, 0), given(inputs, 2)])


def element_bounds(name: str, node: NodeProto, inputs: Inputs, position: int) -> Bounds | None:
    """Bounds of the elements of the output at `position`, None where the operator has none."""
    if position:
        return (0.0, float(given(inputs, 0).count or 0)) if name == "Unique" and given(inputs, 0).shape else None
    if name in _BETWEEN:
        return _BETWEEN[name]
    if name in RULES:
        return RULES[name](node, inputs)
    if name in MOVES:
        return hull([tensor for tensor in (inputs if name == "Concat" else inputs[:1]) if tensor is not None])
    return None
