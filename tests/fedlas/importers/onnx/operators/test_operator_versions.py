"""Operators whose meaning changed between operator sets: at every version that differs, they agree with the runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.helpers.single_node import Case, assert_agrees, ints, random_floats

floats = random_floats(1)


def scalars(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


X, CUBE, LINE, IMAGE, VOLUME = floats(3, 4), floats(2, 3, 4), floats(2, 4, 9), floats(2, 4, 7, 6), floats(1, 2, 5, 6, 4)
POSITIVE = np.abs(CUBE) + 0.1
SHIFT = [floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.5]
WINDOW = {"kernel_shape": [3, 2], "strides": [2, 3]}
UNEVEN = WINDOW | {"pads": [0, 1, 2, 0]}
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
SOFTMAX = [
    Case(op, (CUBE,), attributes, opset=v)
    for op in ("Softmax", "LogSoftmax")
    for attributes in ({}, {"axis": 0}, {"axis": 1}, {"axis": 2})
    for v in (7, 11, 13)
]
SHAPES = [
    *(Case("Flatten", (CUBE,), {"axis": a}, opset=v) for a, v in ((0, 7), (2, 9), (-1, 11), (3, 26))),
    *(Case("Reshape", (CUBE, ints(0, -1)), opset=v) for v in (7, 13, 14, 21)),
    *(Case("Squeeze", (floats(1, 3, 1),), {"axes": a}, opset=v) for a, v in (([2], 7), ([-1], 11))),
    *(Case("Squeeze", (floats(1, 3, 1), ints(-1)), opset=v) for v in (13, 21)),
    *(Case("Unsqueeze", (X,), {"axes": a}, opset=v) for a, v in (([0, 3], 7), ([-1], 11))),
    *(Case("Unsqueeze", (X, ints(-1, 0)), opset=v) for v in (13, 21)),
    Case("Slice", (X,), {"starts": [0, -3], "ends": [2, 100]}, opset=7),
    *(Case("Slice", (X, ints(0, -3), ints(2, 100)), opset=v) for v in (10, 11, 13)),
    Case("Slice", (CUBE, ints(-1, 2), ints(-100, 0), ints(-1, 1), ints(-2, -1)), opset=10),
    Case("Split", (floats(6, 4),), {"axis": -1}, opset=11, outputs=2),
    Case("Split", (floats(6, 4),), {"axis": 1, "split": [1, 3]}, opset=7, outputs=2),
    Case("Split", (floats(6, 4), ints(1, 3)), {"axis": 1}, opset=13, outputs=2),
    Case("Split", (floats(7, 2),), {"num_outputs": 3}, opset=18, outputs=3),
    Case("Split", (floats(7, 2),), {"num_outputs": 1}, opset=18, outputs=1),
    *(Case("Shape", (CUBE,), opset=v) for v in (7, 13)),
    *(Case("Shape", (CUBE,), {"start": a, "end": b}, opset=15) for a, b in ((-2, 3), (0, -1), (5, 9))),
    *(
        Case("Pad", (IMAGE,), {"pads": [0, 0, 1, 2, 0, 0, 2, 0], "mode": mode}, opset=7)
        for mode in ("constant", "reflect", "edge")
    ),
    *(Case("Pad", (X, ints(1, 2, 0, 1)), {"mode": m}, opset=v) for m in ("reflect", "edge") for v in (11, 13, 18)),
    Case("Pad", (X, ints(2, 5, 4, 1)), {"mode": "wrap"}, opset=19),
    Case("Pad", (X, ints(2, 1), None, ints(-1)), {"mode": "edge"}, opset=21),
    Case("Pad", (ints([1, 2], [3, 4]), ints(0, 1, 1, 0), np.array(9)), opset=24),
    Case("DepthToSpace", (floats(1, 8, 2, 3),), {"blocksize": 2}, opset=7),
    *(Case("DepthToSpace", (floats(1, 8, 2, 3),), {"blocksize": 2, "mode": m}, opset=11) for m in ("DCR", "CRD")),
    Case("ReverseSequence", (CUBE, ints(1, 2, 2)), opset=10),
    Case("ReverseSequence", (CUBE, ints(1, 3)), {"batch_axis": 0, "time_axis": 1}, opset=10),
    Case("Range", (np.float32(0), np.float32(1), np.float32(0.3)), opset=11),
    Case("Range", (np.array(5, np.int32), np.array(-4, np.int32), np.array(-3, np.int32)), opset=11),
    Case("ConstantOfShape", (ints(2, 3),), {"value": helper.make_tensor("v", TensorProto.BOOL, [1], [1])}, opset=9),
]
NUMBERS = [
    *(Case("Clip", (X,), {"max": 0.3}, opset=v) for v in (7, 10)),
    *(Case("Clip", (X, np.float32(-0.5), None), opset=v) for v in (11, 12, 13)),
    Case("Clip", (ints(-5, 0, 5), np.array(-2), np.array(3)), opset=12),
    Case("Clip", (X, np.float32(1), np.float32(-1)), opset=13),
    *(Case("Cast", (scalars(-1.7, 2.5, 0),), {"to": TensorProto.INT32}, opset=v) for v in (7, 9, 13, 19, 23)),
    *(Case("Add", (X, floats(4)), opset=v) for v in (7, 13, 14)),
    *(Case("PRelu", (IMAGE, floats(4, 1, 1)), opset=v) for v in (7, 9, 16)),
    *(Case("Max", (X, floats(4)), opset=v) for v in (8, 12, 13)),
    Case("Max", (ints(1, 5), ints(3, 2)), opset=12),
    *(Case("Pow", (POSITIVE, scalars(2.5)), opset=v) for v in (7, 12, 13, 15)),
    *(Case("Mod", (ints(-7, 7, 6), ints(3, -3, 4)), {"fmod": f}, opset=v) for f in (0, 1) for v in (10, 13)),
    *(Case("Equal", (ints(1, 2), ints(1, 3)), opset=v) for v in (7, 11, 13, 19)),
    *(Case("IsInf", (scalars(np.inf, -np.inf, 0),), {"detect_negative": n}, opset=v) for n in (0, 1) for v in (10, 20)),
    *(Case("Gelu", (X,), {"approximate": a}, opset=20) for a in ("none", "tanh")),
    *(Case("HardSwish", (3 * X,), opset=v) for v in (14, 22)),
    Case("Shrink", (X,), {"bias": 0.1, "lambd": 0.2}, opset=9),
    *(
        Case("CumSum", (CUBE, np.array(-1)), {"reverse": r, "exclusive": e}, opset=v)
        for r, e, v in ((0, 1, 11), (1, 0, 14))
    ),
]
REDUCING = [
    *(
        Case(f"Reduce{kind}", (POSITIVE,), {"axes": axes, "keepdims": keep}, opset=v)
        for kind in REDUCTIONS
        for axes, keep, v in (([1], 1, 7), ([-1, 0], 0, 11), ([2], 0, 13 if kind != "Sum" else 11))
    ),
    *(
        Case(f"Reduce{kind}", (POSITIVE, ints(-1, 0)), {"keepdims": 0}, opset=18)
        for kind in REDUCTIONS
        if kind != "Sum"
    ),
    *(Case(f"Reduce{kind}", (POSITIVE,), opset=v) for kind in REDUCTIONS for v in (7, 18)),
    *(
        Case(f"Reduce{kind}", (ints([7, 2, 5]), ints(1)), opset=18)
        for kind in ("Sum", "Prod", "Max", "SumSquare", "L1")
    ),
    Case("ReduceMean", (np.array([[7, 2, 4]], np.int32),), {"axes": [1]}, opset=13),
    Case("ReduceMax", (np.array([[True, False]]), ints(1)), opset=20),
    Case("ReduceSum", (CUBE, ints(1)), opset=13),
    Case("ReduceSum", (CUBE, np.zeros(0, np.int64)), {"noop_with_empty_axes": 1}, opset=13),
    *(Case(op, (X,), {"axis": a}, opset=v) for op in ("ArgMax", "ArgMin") for a, v in ((1, 7), (-1, 11), (0, 13))),
    *(
        Case(op, (np.ones((2, 3), np.float32),), {"axis": 1, "select_last_index": s}, opset=12)
        for op in ("ArgMax", "ArgMin")
        for s in (0, 1)
    ),
    Case("TopK", (X,), {"k": 2}, opset=7, outputs=2),
    Case("TopK", (X, ints(3)), opset=10, outputs=2),
    Case("TopK", (scalars(1, 2, 2, 1), ints(3)), opset=11, outputs=2),
    Case("TopK", (X, ints(2)), {"largest": 0, "axis": 0}, opset=24, outputs=2),
]
INDEXING = [
    *(Case("Gather", (X, ints(2, 0)), opset=v) for v in (7, 11, 13)),
    *(Case("GatherND", (CUBE, ints([0, 1], [1, 2])), opset=v) for v in (11, 12, 13)),
    Case("Scatter", (X, ints([2, 0]), floats(1, 2)), {"axis": 1}, opset=9),
    *(Case("ScatterElements", (X, ints([-1, 0]), floats(1, 2)), {"axis": 1}, opset=v) for v in (11, 13)),
    *(
        Case("ScatterElements", (X, ints([1, 1]), floats(1, 2)), {"axis": 1, "reduction": r}, opset=v)
        for r, v in (("add", 16), ("mul", 16), ("max", 18), ("min", 18))
    ),
    *(Case("ScatterND", (X, ints([0], [2]), floats(2, 4)), opset=v) for v in (11, 13)),
    *(
        Case("ScatterND", (CUBE, ints([0, -1], [0, 2], [1, 1]), floats(3, 4)), {"reduction": r}, opset=v)
        for r, v in (("add", 16), ("mul", 16), ("max", 18), ("min", 18))
    ),
    *(
        Case("OneHot", (ints(0, -1, 7), np.array(3), scalars(2, 5)), {"axis": a}, opset=v)
        for a, v in ((-1, 9), (0, 11))
    ),
    *(
        Case("Compress", (X, np.array([True, False, True])), a, opset=v)
        for a, v in (({}, 9), ({"axis": 0}, 11), ({"axis": -1}, 11))
    ),
]
LAYERS = [
    *(Case("BatchNormalization", (IMAGE, *SHIFT), {"epsilon": 1e-3}, opset=v) for v in (7, 9, 14, 15)),
    Case("BatchNormalization", (X, *SHIFT), opset=15),
    *(Case("Dropout", (X,), {"ratio": 0.3}, opset=v) for v in (7, 10)),
    *(Case("Dropout", (X, np.float32(0.3)), opset=v) for v in (12, 13)),
    *(Case("Gemm", (X, floats(4, 5), floats(5)), {"beta": 0.5}, opset=v) for v in (7, 9, 11, 13)),
    *(Case("Gemm", (X, floats(4, 5)), opset=v) for v in (11, 13)),
    Case("GroupNormalization", (IMAGE, floats(4), floats(4)), {"num_groups": 2}, opset=21),
    Case("LayerNormalization", (CUBE, floats(4), floats(4)), opset=17, outputs=3),
    *(Case("LRN", (IMAGE,), {"size": n, "alpha": 0.3, "beta": 0.6, "bias": 1.5}, opset=13) for n in (1, 3, 5)),
    *(Case("LpNormalization", (X,), {"p": p, "axis": a}, opset=v) for p, a, v in ((1, 0, 7), (2, -1, 22))),
    *(Case("InstanceNormalization", (x, floats(4), floats(4)), opset=v) for x, v in ((LINE, 7), (IMAGE, 22))),
    Case("InstanceNormalization", (floats(1, 4, 2), floats(4), floats(4)), opset=7),
    Case("Conv", (VOLUME, floats(4, 1, 2, 3, 2), floats(4)), {"group": 2, "strides": [1, 2, 1]}, opset=7),
    *(
        Case("Conv", (LINE, floats(3, 4, 4)), {"auto_pad": p, "strides": [3]}, opset=11)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    Case("Conv", (LINE, floats(3, 4, 4)), {"auto_pad": "VALID", "dilations": [2]}, opset=11),
    Case("Conv", (IMAGE, floats(4, 1, 3, 3)), {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 2]}, opset=22),
    Case("ConvTranspose", (VOLUME, floats(2, 3, 2, 2, 3)), {"strides": [2, 1, 2]}, opset=7),
    *(
        Case("ConvTranspose", (IMAGE, floats(4, 3, 3, 2), floats(3)), {"auto_pad": p, "strides": [2, 3]}, opset=11)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    *(
        Case(
            "ConvTranspose",
            (IMAGE, floats(4, 3, 3, 2), floats(3)),
            {"output_shape": n, "strides": [2, 3], **p},
            opset=11,
        )
        for n in ([14, 16], [15, 18], [13, 15])
        for p in ({}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"})
    ),
    Case("ConvTranspose", (IMAGE, floats(4, 1, 3, 3)), {"dilations": [2, 1], "pads": [0, 2, 1, 0]}, opset=22),
    *(
        Case("Einsum", (CUBE, floats(2, 4, 5)), {"equation": e}, opset=12)
        for e in ("bij,bjk->bik", "...ij,...jk", "bij,bjk->b")
    ),
]
POOLING = [
    *(Case("MaxPool", (IMAGE,), UNEVEN, opset=v) for v in (7, 8, 10, 11, 12)),
    *(Case("MaxPool", (IMAGE,), WINDOW | {"ceil_mode": 1, "dilations": [2, 1]}, opset=v) for v in (10, 22)),
    *(Case("MaxPool", (IMAGE,), UNEVEN | {"ceil_mode": 1}, opset=v) for v in (10, 22)),
    *(
        Case(
            "MaxPool",
            (x,),
            {"kernel_shape": [2] * (x.ndim - 2), "strides": [2] * (x.ndim - 2), "auto_pad": p},
            opset=12,
        )
        for x in (LINE, IMAGE, VOLUME)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    Case("MaxPool", (np.arange(36, dtype=np.uint8).reshape(1, 1, 6, 6),), WINDOW, opset=12),
    *(
        Case("AveragePool", (IMAGE,), UNEVEN | {"count_include_pad": c}, opset=v)
        for c in (0, 1)
        for v in (7, 10, 11, 19)
    ),
    *(
        Case("AveragePool", (IMAGE,), UNEVEN | {"count_include_pad": c, "ceil_mode": 1}, opset=v)
        for c in (0, 1)
        for v in (10, 19, 22)
    ),
    *(
        Case("AveragePool", (x,), {"kernel_shape": [2] * (x.ndim - 2), "dilations": [3] * (x.ndim - 2)}, opset=19)
        for x in (LINE, floats(1, 2, 6, 7), VOLUME)
    ),
    *(
        Case("AveragePool", (IMAGE,), WINDOW | {"auto_pad": p, "strides": [2, 2]}, opset=11)
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
]
_TRANSFORMATIONS = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
RESIZING = [
    *(Case("Upsample", (IMAGE,), {"scales": [1.0, 1.0, 2.0, 1.5], "mode": m}, opset=7) for m in ("nearest", "linear")),
    *(
        Case(op, (IMAGE, scalars(1, 1, 2, 1.5)), {"mode": m}, opset=v)
        for op, v in (("Upsample", 9), ("Resize", 10))
        for m in ("nearest", "linear")
    ),
    Case("Resize", (IMAGE, scalars(1, 1, 0.6, 0.5)), opset=10),
    *(
        Case(
            "Resize",
            (IMAGE, scalars(), scalars(1, 1, *s)),
            {"mode": "nearest", "coordinate_transformation_mode": t, "nearest_mode": n},
            opset=v,
        )
        for s in ((1.5, 2), (0.6, 0.7))
        for t in _TRANSFORMATIONS
        for n, v in (("round_prefer_floor", 11), ("round_prefer_ceil", 13), ("floor", 18), ("ceil", 19))
    ),
    *(
        Case(
            "Resize",
            (IMAGE, scalars(), scalars(), ints(2, 4, *n)),
            {"mode": m, "coordinate_transformation_mode": t},
            opset=v,
        )
        for n in ((10, 13), (4, 3), (1, 1))
        for m in ("linear", "cubic")
        for t in _TRANSFORMATIONS
        for v in (11, 19)
    ),
    *(
        Case(
            "Resize", (IMAGE, None, scalars(1, 1, 1.7, 0.6)), {"mode": m, "coordinate_transformation_mode": t}, opset=13
        )
        for m in ("linear", "cubic")
        for t in _TRANSFORMATIONS
    ),
    Case("Resize", (IMAGE, None, scalars(1, 1, 1.7, 0.6)), {"mode": "cubic", "cubic_coeff_a": -0.5}, opset=13),
    *(
        Case("Resize", (IMAGE, None, None, ints(5, 4)), {"axes": [2, 3], "mode": m}, opset=18)
        for m in ("linear", "cubic")
    ),
    Case("Resize", (floats(2, 5, 6, 3), None, scalars(1, 2, 2, 1)), {"mode": "linear"}, opset=13),
]
HEADS = (floats(2, 4, 5, 6), floats(2, 2, 7, 6), floats(2, 2, 7, 6))  # queries of four heads share two heads of keys
PACKED = (floats(2, 5, 8), floats(2, 5, 8), floats(2, 5, 8))
TWO = {"q_num_heads": 2, "kv_num_heads": 2}
NEW = [
    *(Case("Attention", HEADS, a, opset=v) for a in ({}, {"scale": 0.3}) for v in (23, 24)),
    *(
        Case("Attention", (*HEADS, mask), opset=v)
        for mask in (floats(5, 7), floats(2, 1, 5, 7), floats(5, 7) > -1)
        for v in (23, 24)
    ),
    *(Case("Attention", PACKED, TWO | {"is_causal": c}, opset=v) for c in (0, 1) for v in (23, 24)),
    *(Case("Attention", (*PACKED, floats(5, 5)), TWO | {"is_causal": 1}, opset=v) for v in (23, 24)),
    *(
        Case(
            "RotaryEmbedding",
            (floats(2, 3, 4, 6), floats(8, 3), floats(8, 3), ints([0, 1, 2, 3], [4, 5, 6, 7])),
            {"interleaved": i},
            opset=23,
        )
        for i in (0, 1)
    ),
    Case(
        "RotaryEmbedding",
        (PACKED[0], floats(2, 5, 1), floats(2, 5, 1)),
        {"num_heads": 2, "rotary_embedding_dim": 2},
        opset=23,
    ),
    *(Case("RMSNormalization", (CUBE, floats(4)), {"axis": -1, "epsilon": 1e-3}, opset=v) for v in (23, 24)),
    *(Case("Swish", (X,), {"alpha": a}, opset=24) for a in (1.0, 1.7)),
]
ALL = [*NEW, *SOFTMAX, *SHAPES, *NUMBERS, *REDUCING, *INDEXING, *LAYERS, *POOLING, *RESIZING]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_agrees_with_onnx_runtime(case: Case) -> None:
    """Shapes, types and values are those of ONNX Runtime for a model of that operator set."""
    assert_agrees(case)
