"""The sizes of operators' results from the sizes of their inputs, also where these are known as bounds only.

Where this module has no rule, ONNX's own inference is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference

from fedlas.importers.onnx.graph import attribute
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS
from fedlas.importers.onnx.sizes.known import Known, Shape

Inputs = Sequence[Known | None]
Rule = Callable[[NodeProto, Inputs, int], Sequence[Shape | None]]

RULES: dict[str, Rule] = {}


class Misfit(Exception):
    """Sizes that cannot be computed with: the inputs have none like these together."""


def _rule(names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return enter


def shape_of(inputs: Inputs, position: int) -> Shape:
    """The sizes of an input; raises KeyError where they are not known."""
    known = inputs[position] if position < len(inputs) else None
    if known is None or known.shape is None:
        raise KeyError(position)
    return known.shape


def broadcast(shapes: Sequence[Shape], *, fixed: bool = True) -> Shape:
    """The sizes of an elementwise result; of bounds the largest counts."""
    rank = max(map(len, shapes), default=0)
    result = []
    for axis in range(1, rank + 1):
        sizes = {shape[-axis] for shape in shapes if len(shape) >= axis}
        if fixed and len(sizes - {1}) > 1:
            raise Misfit(f"sizes {shapes} do not fit")
        result.append(next(iter(sizes - {1}), 1) if fixed else max(sizes))
    return tuple(reversed(result))


def _all_fixed(inputs: Inputs) -> bool:
    return all(known is None or known.fixed for known in inputs)


def numbers(inputs: Inputs, position: int, fallback: Any = None) -> list[int] | None:
    """The exact whole numbers at a position, `fallback` where there is no such input; KeyError where not known."""
    known = inputs[position] if position < len(inputs) else None
    if known is None:
        return None if fallback is None else list(fallback)
    if known.value is None:
        raise KeyError(position)
    return [int(n) for n in np.ravel(known.value)]


def highest(inputs: Inputs, position: int) -> list[float]:
    """The largest number that each element at a position may be; raises KeyError where they cannot be counted."""
    known = inputs[position] if position < len(inputs) else None
    if known is None or known.shape is None or not known.fixed:
        raise KeyError(position)
    if known.value is not None:
        return [float(n) for n in np.ravel(known.value)]
    if not known.each:
        raise KeyError(position)
    return [float(n) for n in np.ravel(known.high)]


def _whole(size: float) -> int:
    return int(min(max(size, 0.0), 2.0**62))


@_rule("""
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Identity IsInf IsNaN Log Neg Not
    Reciprocal Round Sign Sin Sinh Sqrt Tan Tanh BitwiseNot Cast HardSwish Mish Relu Sigmoid Softplus Softsign
    Elu Celu Selu LeakyRelu ThresholdedRelu HardSigmoid Gelu Swish Shrink Softmax LogSoftmax Hardmax EyeLike
    LpNormalization MeanVarianceNormalization LRN Trilu CumSum CumProd ReverseSequence ScatterND
    ScatterElements Scatter Clip CastLike com.microsoft.Gelu com.microsoft.FastGelu com.microsoft.BiasGelu
    com.microsoft.QuickGelu QuantizeLinear DequantizeLinear StringNormalizer RegexFullMatch
    ai.onnx.ml.Binarizer ai.onnx.ml.Imputer ai.onnx.ml.Normalizer ai.onnx.ml.Scaler ai.onnx.ml.LabelEncoder
    RMSNormalization SimplifiedLayerNormalization com.microsoft.SkipLayerNormalization
    com.microsoft.SkipSimplifiedLayerNormalization InstanceNormalization GroupNormalization TensorScatter""")
def _same(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [shape_of(inputs, 0)] * len(node.output)


@_rule("""
    Add Sub Mul Div Pow Mod And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual BitwiseAnd BitwiseOr
    BitwiseXor BitShift PRelu Where Max Min Sum Mean SwiGLU StringConcat""")
def _elementwise(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [broadcast([shape_of(inputs, i) for i in range(len(inputs))], fixed=_all_fixed(inputs))]


@_rule("Shape")
def _shape(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [(len(shape_of(inputs, 0)[attribute(node, "start", 0) : attribute(node, "end")]),)]


@_rule("Size")
def _size(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [()]


@_rule("Transpose")
def _transpose(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    order = attribute(node, "perm") or tuple(reversed(range(len(shape))))
    return [tuple(shape[i] for i in order)]


@_rule("Flatten")
def _flatten(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    axis = attribute(node, "axis", 1)
    axis += len(shape) if axis < 0 else 0
    return [(math.prod(shape[:axis]), math.prod(shape[axis:]))]


@_rule("Concat")
def _concat(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shapes = [shape_of(inputs, i) for i in range(len(inputs))]
    axis = attribute(node, "axis", 1) % max(len(shapes[0]), 1)
    sizes = [max(part) for part in zip(*shapes, strict=True)]
    sizes[axis] = sum(shape[axis] for shape in shapes)
    return [tuple(sizes)]


@_rule("Gather")
def _gather(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    data, indices = shape_of(inputs, 0), shape_of(inputs, 1)
    axis = attribute(node, "axis", 0) % max(len(data), 1)
    return [data[:axis] + indices + data[axis + 1 :]]


@_rule("GatherElements")
def _gather_elements(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [shape_of(inputs, 1)]


@_rule("GatherND")
def _gather_nd(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    data, indices = shape_of(inputs, 0), shape_of(inputs, 1)
    assert inputs[1] is not None
    return [indices[:-1] + data[attribute(node, "batch_dims", 0) + indices[-1] :]]


@_rule("Reshape")
def _reshape(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    """A target that follows from values has along an axis at most as many elements as there are, if there are any."""
    given = shape_of(inputs, 0)
    source = inputs[0]
    assert source is not None
    count = source.count
    assert count is not None
    target = numbers(inputs, 1, attribute(node, "shape", ())) if len(inputs) < 2 or inputs[1] is None else None
    known = inputs[1] if len(inputs) > 1 else None
    if known is not None and known.value is not None:
        target = [int(n) for n in known.value]
    if target is None:
        assert known is not None
        if known.shape is None or not known.fixed or len(known.shape) != 1:
            raise KeyError(1)
        most = [count] * known.shape[0]
        if not (source.fixed and count):  # of an empty tensor any other size may be asked for
            wide = highest(inputs, 1)
            most = [max(count, _whole(high)) if high >= 0 else count for high in wide]
        return [tuple(most)]
    if not attribute(node, "allowzero", 0):
        target = [given[i] if n == 0 and i < len(given) else n for i, n in enumerate(target)]
    if -1 in target:
        rest = math.prod(n for n in target if n != -1)
        if source.fixed and rest and count % rest:
            raise Misfit(f"{given} is not reshaped to {target}")
        target = [count // max(rest, 1) if n == -1 else n for n in target]
    elif source.fixed and math.prod(target) != count:
        raise Misfit(f"{given} is not reshaped to {target}")
    return [tuple(target)]


def _axes(node: NodeProto, inputs: Inputs, rank: int, fallback: Any = None) -> list[int] | None:
    axes = numbers(inputs, 1, attribute(node, "axes", fallback))
    return None if axes is None else [axis % rank for axis in axes]


@_rule("Squeeze")
def _squeeze(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    axes = _axes(node, inputs, len(shape))
    if axes is None:
        if not _all_fixed(inputs):
            raise KeyError(0)
        axes = [i for i, size in enumerate(shape) if size == 1]
    return [tuple(size for i, size in enumerate(shape) if i not in axes)]


@_rule("Unsqueeze")
def _unsqueeze(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = list(shape_of(inputs, 0))
    given = numbers(inputs, 1, attribute(node, "axes", ())) or []
    for axis in sorted(axis % (len(shape) + len(given)) for axis in given):
        shape.insert(axis, 1)
    return [tuple(shape)]


@_rule("Slice")
def _slice(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    """Where the bounds are not known, or are bounds of a size that is not, nothing is cut off."""
    shape = list(shape_of(inputs, 0))
    source = inputs[0]
    assert source is not None
    if not source.fixed:
        return [tuple(shape)]
    try:
        starts, ends = (numbers(inputs, i, attribute(node, n)) for i, n in ((1, "starts"), (2, "ends")))
        assert starts is not None
        assert ends is not None
        axes = numbers(inputs, 3, attribute(node, "axes", range(len(starts)))) or []
        steps = numbers(inputs, 4, [1] * len(starts)) or []
    except KeyError:
        return [tuple(shape)]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
    return [tuple(shape)]


@_rule("Split")
def _split(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    axis, parts = attribute(node, "axis", 0) % max(len(shape), 1), len(node.output)
    try:
        sizes = numbers(inputs, 1, attribute(node, "split"))
    except KeyError:
        return [shape] * parts
    if sizes is None:
        part = math.ceil(shape[axis] / parts)
        sizes = [part] * (parts - 1) + [shape[axis] - part * (parts - 1)]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


@_rule("""
    ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum
    ReduceLogSumExp""")
def _reduce(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    kept = attribute(node, "keepdims", 1)
    axes = _axes(node, inputs, len(shape) or 1)
    if not axes:
        if attribute(node, "noop_with_empty_axes", 0):
            return [shape]
        axes = list(range(len(shape)))
    return [tuple(1 if i in axes else size for i, size in enumerate(shape) if kept or i not in axes)]


@_rule("ArgMax ArgMin")
def _arg(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    axis = attribute(node, "axis", 0) % max(len(shape), 1)
    kept = attribute(node, "keepdims", 1)
    return [tuple(1 if i == axis else size for i, size in enumerate(shape) if kept or i != axis)]


@_rule("MatMul")
def _matmul(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    a, b = shape_of(inputs, 0), shape_of(inputs, 1)
    if min(len(a), len(b)) < 1 or (_all_fixed(inputs) and a[-1] != b[-2 if len(b) > 1 else 0]):
        raise Misfit(f"no product of {a} and {b}")
    batch = broadcast([a[:-2], b[:-2]], fixed=_all_fixed(inputs))
    return [batch + (a[-2:-1] if len(a) > 1 else ()) + (b[-1:] if len(b) > 1 else ())]


@_rule("Gemm com.microsoft.FusedGemm")
def _gemm(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    a, b = shape_of(inputs, 0), shape_of(inputs, 1)
    return [(a[1 if attribute(node, "transA", 0) else 0], b[0 if attribute(node, "transB", 0) else 1])]


@_rule("com.microsoft.FusedMatMul")
def _fused_matmul(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    a, b = shape_of(inputs, 0), shape_of(inputs, 1)
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise KeyError(0)
    rows, columns = a[-1 if attribute(node, "transA", 0) else -2], b[-2 if attribute(node, "transB", 0) else -1]
    return [(*broadcast([a[:-2], b[:-2]], fixed=_all_fixed(inputs)), rows, columns)]


@_rule("com.microsoft.CDist")
def _cdist(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [(shape_of(inputs, 0)[0], shape_of(inputs, 1)[0])]


@_rule("com.microsoft.Attention")
def _fused_attention(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    x, weight, sizes = shape_of(inputs, 0), shape_of(inputs, 1), attribute(node, "qkv_hidden_sizes")
    if len(node.output) > 1:
        raise KeyError(1)
    return [(*x[:2], sizes[2] if sizes else weight[1] // 3)]


@_rule("com.microsoft.MultiHeadAttention")
def _multi_head(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    query = shape_of(inputs, 0)
    if len(node.output) > 1 or len(query) != 3:
        raise KeyError(1)
    value = inputs[2] if len(inputs) > 2 else None
    return [query if value is None or value.shape is None or len(value.shape) != 3 else (*query[:2], value.shape[2])]


@_rule("com.microsoft.EmbedLayerNormalization")
def _embedded(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    tokens, words = shape_of(inputs, 0), shape_of(inputs, 2)
    return [(*tokens, words[1]), (tokens[0],), (*tokens, words[1])][: len(node.output)]


@_rule("NonZero")
def _nonzero(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    source = inputs[0]
    assert source is not None
    return [(len(shape_of(inputs, 0)), source.count or 0)]


@_rule("Compress")
def _compress(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = shape_of(inputs, 0)
    return [shape if attribute(node, "axis") is not None else (math.prod(shape),)]


@_rule("Unique")
def _unique(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape, axis = shape_of(inputs, 0), attribute(node, "axis")
    count = (math.prod(shape) if axis is None else shape[axis],)
    return [(count if axis is None else shape), count, (math.prod(shape) if axis is None else shape[axis],), count][
        : len(node.output)
    ]


@_rule("TopK")
def _topk(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = list(shape_of(inputs, 0))
    axis = attribute(node, "axis", -1)
    try:
        k = numbers(inputs, 1, [attribute(node, "k", 0)]) or [0]
        shape[axis] = min(k[0], shape[axis])
    except KeyError:
        pass
    return [tuple(shape)] * len(node.output)


@_rule("ConstantOfShape")
def _constant_of_shape(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [tuple(_whole(n) for n in highest(inputs, 0))]


@_rule("Expand")
def _expand(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    known = inputs[1]
    exact = _all_fixed(inputs) and known is not None and known.value is not None
    return [broadcast([shape_of(inputs, 0), tuple(_whole(n) for n in highest(inputs, 1))], fixed=exact)]


@_rule("Tile")
def _tile(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [tuple(_whole(n) * size for n, size in zip(highest(inputs, 1), shape_of(inputs, 0), strict=True))]


@_rule("Pad")
def _pad(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = list(shape_of(inputs, 0))
    given = attribute(node, "pads") if len(inputs) < 2 else None
    widths = [float(n) for n in given] if given is not None else highest(inputs, 1)
    axes = numbers(inputs, 3, range(len(shape))) or []
    for axis, before, after in zip(axes, widths, widths[len(axes) :], strict=False):
        shape[axis] = _whole(shape[axis] + before + after)
    return [tuple(shape)]


@_rule("Range")
def _range(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    start, limit, delta = inputs[:3]
    if start is None or limit is None or delta is None:
        raise KeyError(0)
    (first, last_first), (least, last), (small, large) = start.ends, limit.ends, delta.ends
    if not all(map(math.isfinite, (first, last_first, least, last, small, large))):
        raise KeyError(0)
    if small > 0:
        return [(_whole(math.ceil(min((last - first) / small, 2.0**62))),)]
    if large < 0:
        return [(_whole(math.ceil(min((last_first - least) / -large, 2.0**62))),)]
    return [(2**62,)]


@_rule("Resize Upsample")
def _resize(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    """By sizes or by scales, which may stand in the second place (Upsample, operator set 10) or the third."""
    shape = list(shape_of(inputs, 0))
    policy = attribute(node, "keep_aspect_ratio_policy", b"stretch")
    axes = [axis % len(shape) for axis in attribute(node, "axes") or range(len(shape))]
    wanted = highest(inputs, 3) if len(inputs) > 3 and inputs[3] is not None else []
    if wanted:
        if policy != b"stretch":
            raise KeyError(3)
        for axis, size in zip(axes, wanted, strict=True):
            shape[axis] = _whole(size)
        return [tuple(shape)]
    place = 2 if node.op_type == "Resize" and opset > 10 else 1
    scales = list(attribute(node, "scales", ())) or highest(inputs, place)
    for axis, scale in zip(axes, scales, strict=True):
        shape[axis] = _whole(math.floor(min(float(np.float32(scale)) * shape[axis] * (1 + 1e-7), 2.0**62)))
    return [tuple(shape)]


@_rule("OneHot")
def _one_hot(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = list(shape_of(inputs, 0))
    axis = attribute(node, "axis", -1)
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, _whole(highest(inputs, 1)[0]))
    return [tuple(shape)]


@_rule("HannWindow HammingWindow BlackmanWindow")
def _window(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    return [(_whole(highest(inputs, 0)[0]),)]


@_rule("CenterCropPad")
def _center_crop_pad(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    shape = list(shape_of(inputs, 0))
    for axis, size in zip(attribute(node, "axes") or range(len(shape)), highest(inputs, 1), strict=True):
        shape[axis] = _whole(size)
    return [tuple(shape)]


@_rule("AffineGrid")
def _affine_grid(node: NodeProto, inputs: Inputs, opset: int) -> Sequence[Shape | None]:
    sizes = [_whole(n) for n in highest(inputs, 1)]
    return [(sizes[0], *sizes[2:], len(sizes) - 2)]


#: ONNX's inference does not say what ONNX Runtime computes.
_OTHERWISE = frozenset({"STFT"})


def inferred(
    node: NodeProto, inputs: Inputs, imports: dict[str, int], ir_version: int
) -> list[tuple[int, Shape | None]]:
    """Type and sizes of each output by ONNX's own inference."""
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    if operator_name(node) == "com.microsoft.FusedConv":
        node = helper.make_node(
            "Conv",
            list(node.input)[:3],
            list(node.output),
            **{
                item.name: helper.get_attribute_value(item)
                for item in node.attribute
                if not item.name.startswith("activ")
            },
        )
        domain = ""
    if operator_name(node) in _OTHERWISE:
        raise KeyError(node.op_type)
    version = imports.get(domain, 1)
    schema = defs.get_schema(node.op_type, version, domain)
    given = [(name, known) for name, known in zip(node.input, inputs, strict=False) if name and known is not None]
    types = {name: helper.make_tensor_type_proto(k.elem or TensorProto.FLOAT, k.shape) for name, k in given}
    data = {
        n: numpy_helper.from_array(k.value, n) for n, k in given if k.value is not None and k.value.dtype.kind != "U"
    }
    opsets = [helper.make_opsetid(name, number) for name, number in imports.items()]
    found = shape_inference.infer_node_outputs(schema, node, types, data, None, opsets, ir_version)
    return [_read(found.get(name)) for name in node.output]


def _read(found: TypeProto | None) -> tuple[int, Shape | None]:
    if found is None or not found.HasField("tensor_type"):
        return 0, None
    tensor = found.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)
