"""Abstract tensors, and rules for the sizes of results that ONNX's own shape inference does not tell.

A bound of a size is computed with like the size itself. A rule answers None for an output whose sizes are unknown,
and raises `NoRule` where ONNX's inference may know more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from onnx import NodeProto, helper

from fedlas.importers.onnx.graph import Array, Shape, attribute, floats, integer, integers

#: So many elements are computed where they follow from constants and shapes alone.
COMPUTED = 1024
#: More elements than any address holds.
ENDLESS = 2**62
RULES: dict[str, Rule] = {}


@dataclass(frozen=True, eq=False)
class AbstractTensor:
    """A tensor of a graph whose inputs have given sizes and any values.

    Attributes:
        elem: its type in ONNX's numbering, 0 where it is not known.
        shape: its sizes at most, None where even their number is not known.
        fixed: the sizes follow from the sizes of the inputs alone.
        tainted: the elements follow from values of the inputs.
        value: the elements, where they follow from constants and shapes and are few.
        max_elements: where that is less than the product of the sizes, or the sizes are not known.
    """

    elem: int
    shape: Shape | None
    fixed: bool = True
    tainted: bool = True
    value: Array | None = None
    max_elements: int | None = None

    @property
    def count(self) -> int | None:
        if self.shape is None:
            return self.max_elements
        product = math.prod(self.shape)
        return product if self.max_elements is None else min(product, self.max_elements)

    @property
    def varies(self) -> bool:
        """True where its elements may differ from row to row."""
        return self.value is None and self.tainted


Inputs: TypeAlias = Sequence[AbstractTensor | None]
Shapes: TypeAlias = Sequence[Shape | None]


class NoRule(Exception):
    """The rule does not cover this use of the operator."""


class ShapeMismatch(Exception):
    """The operator cannot be computed: its inputs have no sizes like these together."""


def constant_tensor(value: Array) -> AbstractTensor:
    value = np.asarray(value)
    try:
        elem = int(helper.np_dtype_to_tensor_dtype(value.dtype))
    except (KeyError, ValueError):
        elem = 0
    return AbstractTensor(elem, value.shape, tainted=False, value=value if value.size <= COMPUTED else None)


def given(inputs: Inputs, position: int) -> AbstractTensor:
    """An input that a rule needs; raises `NoRule` where there is none."""
    tensor = inputs[position] if position < len(inputs) else None
    if tensor is None:
        raise NoRule(position)
    return tensor


def shape_of(inputs: Inputs, position: int) -> Shape:
    """The sizes of an input; raises `NoRule` where they are not known."""
    if (shape := given(inputs, position).shape) is None:
        raise NoRule(position)
    return shape


def numbers(inputs: Inputs, position: int, fallback: Iterable[int] | None = None) -> list[int] | None:
    """The exact whole numbers at a position, `fallback` where there is no such input; `NoRule` where not known."""
    tensor = inputs[position] if position < len(inputs) else None
    if tensor is None:
        return None if fallback is None else list(fallback)
    if tensor.value is None:
        raise NoRule(position)
    return [int(n) for n in np.ravel(tensor.value)]


def numbers_read(inputs: Inputs, position: int) -> list[float]:
    """The numbers at a position; raises `NoRule` where they are not known."""
    tensor = given(inputs, position)
    if tensor.value is None:
        raise NoRule(position)
    return [float(n) for n in np.ravel(tensor.value)]


def as_size(number: float) -> int:
    return int(min(max(number, 0.0), ENDLESS))


Rule = Callable[[NodeProto, Inputs, int], Shapes]


def rule(names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return enter


def _all_fixed(inputs: Inputs) -> bool:
    return all(tensor is None or tensor.fixed for tensor in inputs)


def broadcast(shapes: Sequence[Shape], *, fixed: bool = True) -> Shape:
    """The sizes of an elementwise result; of bounds the largest counts."""
    rank = max(map(len, shapes), default=0)
    result = []
    for axis in range(1, rank + 1):
        sizes = {shape[-axis] for shape in shapes if len(shape) >= axis}
        if fixed and len(sizes - {1}) > 1:
            raise ShapeMismatch(f"sizes {shapes} do not fit")
        result.append(next(iter(sizes - {1}), 1) if fixed else max(sizes))
    return tuple(reversed(result))


@rule("Add Sub Mul Div Pow Mod Max Min Sum Mean SwiGLU StringConcat PRelu")
def _elementwise(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    return [broadcast([shape_of(inputs, i) for i in range(len(inputs))], fixed=_all_fixed(inputs))]


@rule("And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Where")
def _elementwise_of_bounds(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    if _all_fixed(inputs):
        raise NoRule
    return _elementwise(node, inputs, opset)


@rule("MatMul")
def _product_of_bounds(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    a, b = shape_of(inputs, 0), shape_of(inputs, 1)
    if _all_fixed(inputs) or min(len(a), len(b)) < 2:
        raise NoRule
    return [(*broadcast([a[:-2], b[:-2]], fixed=False), a[-2], b[-1])]


@rule("Concat")
def _concat_of_bounds(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    if _all_fixed(inputs):
        raise NoRule
    shapes = [shape_of(inputs, i) for i in range(len(inputs))]
    axis = attribute(node, "axis", 1) % max(len(shapes[0]), 1)
    sizes = [max(part) for part in zip(*shapes, strict=True)]
    sizes[axis] = sum(shape[axis] for shape in shapes)
    return [tuple(sizes)]


@rule("Reshape")
def _reshape(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """A target that follows from values has along an axis at most as many elements as there are, if there are any."""
    source, old = given(inputs, 0), shape_of(inputs, 0)
    count = source.count or 0
    wanted = inputs[1] if len(inputs) > 1 else None
    if wanted is not None and wanted.value is None:
        if wanted.shape is None or not wanted.fixed or len(wanted.shape) != 1:
            return [None]
        return [(count,) * wanted.shape[0]]
    target = numbers(inputs, 1, attribute(node, "shape", ())) or []
    if not attribute(node, "allowzero", 0):
        target = [old[i] if n == 0 and i < len(old) else n for i, n in enumerate(target)]
    rest = math.prod(n for n in target if n != -1)
    if source.fixed and (rest != count if -1 not in target else rest and count % rest):
        raise ShapeMismatch(f"{old} is not reshaped to {target}")
    return [tuple(count // max(rest, 1) if n == -1 else n for n in target)]


@rule("Squeeze")
def _squeeze(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """Axes of size one are dropped where none are named: of bounds it is not known which."""
    if len(inputs) > 1 or integers(node, "axes") is not None or _all_fixed(inputs):
        raise NoRule
    return [None]


@rule("Slice Split")
def _part(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """Where the ends are not known, or are those of a size that is not, nothing is cut off."""
    if _all_fixed(inputs) and all(tensor is None or tensor.value is not None for tensor in inputs[1:]):
        raise NoRule
    return [shape_of(inputs, 0)] * len(node.output)


@rule("Compress")
def _compress(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape = shape_of(inputs, 0)
    return [shape if integer(node, "axis") is not None else (math.prod(shape),)]


@rule("Unique")
def _unique(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape, axis = shape_of(inputs, 0), integer(node, "axis")
    count = (math.prod(shape) if axis is None else shape[axis],)
    return [count if axis is None else shape, count, count, count][: len(node.output)]


@rule("TopK")
def _topk(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape, axis = list(shape_of(inputs, 0)), attribute(node, "axis", -1)
    count = inputs[1].value if len(inputs) > 1 and inputs[1] is not None else np.array(attribute(node, "k", 0))
    if count is not None:
        shape[axis] = min(int(count.item()), shape[axis])
    return [tuple(shape)] * len(node.output)


@rule("STFT")
def _short_time_fourier(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """(N, L, 1 or 2) to (N, frames, frequencies, 2); ONNX's inference counts all frequencies of a one-sided one."""
    signal, window = shape_of(inputs, 0), inputs[2] if len(inputs) > 2 else None
    (step,) = numbers(inputs, 1) or (0,)
    (length,) = numbers(inputs, 3, ()) or shape_of(inputs, 2) if window is None else shape_of(inputs, 2)
    if step <= 0 or not 0 < length <= signal[1]:
        raise ShapeMismatch(f"frames of {length} every {step} numbers out of {signal[1]}")
    one_sided = attribute(node, "onesided", 1) and signal[2] == 1
    return [(signal[0], (signal[1] - length) // step + 1, length // 2 + 1 if one_sided else length, 2)]


@rule("ai.onnx.ml.FeatureVectorizer")
def _side_by_side(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shapes = [shape_of(inputs, i) for i in range(len(inputs))]
    return [(shapes[0][0], sum(math.prod(shape[1:]) for shape in shapes))]


@rule("ai.onnx.ml.LinearClassifier ai.onnx.ml.SVMClassifier ai.onnx.ml.TreeEnsembleClassifier")
def _labels_and_scores(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """One score for each class; support vectors without probabilities have one for each pair of classes."""
    rows = shape_of(inputs, 0)[0]
    names = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")
    scores = max(len(attribute(node, name, ())) for name in names)
    if node.op_type == "SVMClassifier" and scores > 2 and not floats(node, "prob_a"):
        if not floats(node, "support_vectors"):
            raise NoRule
        scores = scores * (scores - 1) // 2
    return [(rows,), (rows, scores)][: len(node.output)]


@rule("ai.onnx.ml.ArrayFeatureExtractor")
def _columns(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    table, chosen = shape_of(inputs, 0), shape_of(inputs, 1)
    return [(*(table[:-1] or (1,)), math.prod(chosen))]


# Operators that read the sizes of their results as numbers.


@rule("Pad")
def _pad(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape = list(shape_of(inputs, 0))
    widths = numbers_read(inputs, 1) if len(inputs) > 1 else [float(n) for n in integers(node, "pads") or ()]
    axes = numbers(inputs, 3, range(len(shape))) or []
    for axis, before, after in zip(axes, widths, widths[len(axes) :], strict=False):
        shape[axis] = as_size(shape[axis] + before + after)
    return [tuple(shape)]


@rule("Range")
def _range(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    first, last, step = (numbers_read(inputs, i)[0] for i in range(3))
    if step == 0 or not all(map(math.isfinite, (first, last, step))):
        raise NoRule
    return [(as_size(math.ceil(min((last - first) / step, ENDLESS))),)]


@rule("Resize Upsample")
def _resize(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """By sizes or by scales, which may stand in the second place (Upsample, operator set 10) or the third."""
    shape = list(shape_of(inputs, 0))
    axes = [axis % len(shape) for axis in integers(node, "axes") or range(len(shape))]
    if wanted := numbers_read(inputs, 3) if len(inputs) > 3 and inputs[3] is not None else []:
        if attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
            raise NoRule
        for axis, size in zip(axes, wanted, strict=True):
            shape[axis] = as_size(size)
        return [tuple(shape)]
    place = 2 if node.op_type == "Resize" and opset > 10 else 1
    for axis, scale in zip(axes, floats(node, "scales") or numbers_read(inputs, place), strict=True):
        shape[axis] = as_size(math.floor(min(float(np.float32(scale)) * shape[axis] * (1 + 1e-7), ENDLESS)))
    return [tuple(shape)]


@rule("OneHot")
def _one_hot(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape, axis = list(shape_of(inputs, 0)), attribute(node, "axis", -1)
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, as_size(numbers_read(inputs, 1)[0]))
    return [tuple(shape)]


@rule("CenterCropPad")
def _center_crop_pad(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape = list(shape_of(inputs, 0))
    for axis, size in zip(integers(node, "axes") or range(len(shape)), numbers_read(inputs, 1), strict=True):
        shape[axis] = as_size(size)
    return [tuple(shape)]


@rule("AffineGrid")
def _affine_grid(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    sizes = list(map(as_size, numbers_read(inputs, 1)))
    return [(sizes[0], *sizes[2:], len(sizes) - 2)]


#: Rules of one line, by the names of their operators.
_SHORT: dict[str, Rule] = {
    "Abs Ceil Clip Erf Exp Floor Identity Log Neg Reciprocal Relu Round Sigmoid Softmax Sqrt Tanh ScatterND "
    "ScatterElements ai.onnx.ml.Imputer ai.onnx.ml.Normalizer ai.onnx.ml.Scaler": lambda node, inputs, opset: [
        shape_of(inputs, 0)
    ],
    "NonZero": lambda node, inputs, opset: [(len(shape_of(inputs, 0)), given(inputs, 0).count or 0)],
    "com.microsoft.CDist": lambda node, inputs, opset: [(shape_of(inputs, 0)[0], shape_of(inputs, 1)[0])],
    "ai.onnx.ml.LinearRegressor ai.onnx.ml.SVMRegressor ai.onnx.ml.TreeEnsembleRegressor": lambda node, inputs, opset: [
        (shape_of(inputs, 0)[0], integer(node, "n_targets") or integer(node, "targets") or 1)
    ],
    "ConstantOfShape HannWindow HammingWindow BlackmanWindow": lambda node, inputs, opset: [
        tuple(map(as_size, numbers_read(inputs, 0)))
    ],
    "Expand": lambda node, inputs, opset: [
        broadcast([shape_of(inputs, 0), tuple(map(as_size, numbers_read(inputs, 1)))], fixed=given(inputs, 0).fixed)
    ],
    "Tile": lambda node, inputs, opset: [
        tuple(as_size(n) * size for n, size in zip(numbers_read(inputs, 1), shape_of(inputs, 0), strict=True))
    ],
}
for _names, _short in _SHORT.items():
    rule(_names)(_short)
