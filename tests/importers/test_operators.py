"""Every function of the operator table computes what ONNX Runtime computes for a graph of that one operator."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluate import run_node

Array = NDArray[Any]
_RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)


@dataclasses.dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    opset: int = 17
    outputs: int = 1


X, IMAGE, LINE = floats(3, 4), floats(2, 4, 7, 7), floats(2, 4, 9)
UNARY = (
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Cos",
    "Erf",
    "Exp",
    "Floor",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Tanh",
    "Elu",
    "Celu",
    "LeakyRelu",
    "HardSigmoid",
    "ThresholdedRelu",
    "Shrink",
    "LogSoftmax",
    "Softmax",
    "Flatten",
    "Transpose",
    "Shape",
    "Size",
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "LpNormalization",
    "ArgMax",
    "ArgMin",
    "NonZero",
)  # of one input, with default attributes
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
CASES = [
    *(Case(op, (X,)) for op in UNARY),
    *(Case(op, (np.abs(X) + 0.1,)) for op in ("Sqrt", "Log", "ReduceLogSum")),
    *(Case(op, (X, floats(4))) for op in BINARY),
    *(Case(op, (X > 0, X > 0.5)) for op in ("And", "Or", "Xor")),
    *(Case(op, (X, X, X)) for op in ("Sum", "Mean")),
    Case("Gelu", (X,), opset=20),
    Case("Gelu", (X,), {"approximate": "tanh"}, opset=20),
    Case("Mish", (X,), opset=18),
    Case("Not", (X > 0,)),
    Case("Equal", (ints(1, 2), ints(1, 3))),
    Case("Where", (X > 0, X, np.float32(0))),
    Case("Pow", (np.abs(X), np.array(2.5, np.float32))),
    Case("Pow", (ints(2, 3), np.array(2.0, np.float32))),
    Case("Div", (ints(-7, 7, 5), ints(2, -2, 5))),
    Case("Mod", (ints(-7, 7), ints(3, -3))),
    Case("Mod", (X, floats(4)), {"fmod": 1}),
    Case("Clip", (X, np.float32(-0.5), np.float32(0.5))),
    Case("Clip", (X, None, np.float32(0.5))),
    Case("Clip", (X,), {"min": -0.2, "max": 0.3}, opset=10),
    Case("Cast", (X,), {"to": TensorProto.INT64}),
    Case("Cast", (X,), {"to": TensorProto.BOOL}),
    Case("Softmax", (floats(2, 3, 4),), {"axis": 1}, opset=11),
    Case("Softmax", (floats(2, 3, 4),), {"axis": 1}),
    Case("LogSoftmax", (floats(2, 3, 4),), opset=12),
    Case("ReduceSum", (X, ints(1)), {"keepdims": 0}, opset=13),
    Case("ReduceMean", (X,), {"axes": [-1]}),
    Case("ReduceMean", (X, ints(0)), opset=18),
    Case("ReduceMax", (X, ints(1)), {"keepdims": 0}, opset=18),
    Case("ReduceMean", (X,), {"noop_with_empty_axes": 1}, opset=18),
    Case("ReduceProd", (floats(2, 3, 4),), {"axes": [0, 2]}),
    Case("ArgMax", (X,), {"axis": 1, "keepdims": 0}),
    Case("ArgMax", (np.ones((2, 3), np.float32),), {"axis": 1, "select_last_index": 1}),
    Case("TopK", (X, ints(2)), {"axis": -1}, outputs=2),
    Case("CumSum", (X, np.array(1)), {"exclusive": 1, "reverse": 1}),
    Case("CumSum", (X, np.array(0))),
    # shapes
    Case("Reshape", (floats(2, 3, 4), ints(0, -1))),
    Case("Reshape", (floats(0, 3), ints(0, 3)), {"allowzero": 1}),
    Case("Flatten", (IMAGE,), {"axis": 2}),
    Case("Transpose", (IMAGE,), {"perm": [0, 2, 3, 1]}),
    Case("Shape", (IMAGE,), {"start": 1, "end": -1}),
    Case("Squeeze", (floats(1, 3, 1),)),
    Case("Squeeze", (floats(1, 3, 1), ints(-1))),
    Case("Squeeze", (floats(1, 3, 1),), {"axes": [0]}, opset=11),
    Case("Unsqueeze", (X, ints(0, -1))),
    Case("Unsqueeze", (X,), {"axes": [1]}, opset=11),
    Case("Expand", (floats(3, 1), ints(2, 1, 4))),
    Case("Tile", (X, ints(2, 3))),
    Case("Concat", (X, floats(3, 2)), {"axis": -1}),
    Case("Split", (floats(6, 2),), outputs=3),
    Case("Split", (floats(6, 2), ints(1, 5)), outputs=2),
    Case("Split", (floats(6, 2),), {"split": [2, 4]}, opset=11, outputs=2),
    Case("Split", (floats(5, 2),), {"num_outputs": 2}, opset=18, outputs=2),
    Case("Slice", (IMAGE, ints(1, -3), ints(2**62, -1), ints(1, 3))),
    Case("Slice", (X, ints(-1), ints(-(2**62)), ints(1), ints(-2))),
    Case("Slice", (X,), {"starts": [1], "ends": [3], "axes": [0]}, opset=9),
    Case("Gather", (X, ints(2, -1))),
    Case("Gather", (IMAGE, np.array(1)), {"axis": 1}),
    Case("Gather", (IMAGE, ints([0, 1], [2, 3])), {"axis": 1}),
    Case("Gather", (X, ints([0, 1]))),
    Case("GatherElements", (X, ints([0, -1], [1, 2])), {"axis": 1}),
    Case("GatherND", (floats(2, 3, 4), ints([0, 1], [1, 2]))),
    Case("GatherND", (floats(2, 3, 4), ints([1], [2])), {"batch_dims": 1}),
    Case("ScatterND", (X, ints([0], [2]), floats(2, 4))),
    Case("ScatterND", (X, ints([0]), floats(1, 4)), {"reduction": "add"}),
    Case("ScatterElements", (X, ints([0, 1]), floats(1, 2)), {"axis": 1}),
    Case("ConstantOfShape", (ints(2, 3),), {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}),
    Case("ConstantOfShape", (ints(2, 3),)),
    Case("Range", (np.array(1), np.array(9), np.array(3))),
    Case("EyeLike", (X,), {"k": 1}),
    Case("Trilu", (X, np.array(1)), {"upper": 0}),
    Case("Trilu", (X,)),
    Case("OneHot", (ints(0, -1, 2), np.array(3), np.array([0.0, 5.0], np.float32)), {"axis": 0}),
    Case("Pad", (X, ints(1, 0, 0, 2), np.float32(3))),
    Case("Pad", (IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1)), {"mode": "reflect"}),
    Case("Pad", (IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1)), {"mode": "edge"}),
    Case("Pad", (X, ints(1, -1), None, ints(1)), opset=18),
    Case("Pad", (X,), {"pads": [0, 1, 0, 1], "value": 2.0}, opset=10),
    *(Case("DepthToSpace", (IMAGE,), {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    Case("SpaceToDepth", (floats(1, 2, 4, 6),), {"blocksize": 2}),
    # products and layers
    Case("MatMul", (floats(2, 3, 4), floats(4, 5))),
    Case("Einsum", (X, floats(4, 2)), {"equation": "ij,jk->ki"}),
    Case("Gemm", (X, floats(5, 4), floats(5)), {"transB": 1}),
    Case("Gemm", (X, floats(3, 5), floats(4, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Conv", (IMAGE, floats(6, 2, 3, 3), floats(6)), {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    Case("Conv", (LINE, floats(5, 4, 3)), {"dilations": [2], "pads": [2, 2]}),
    *(
        Case("Conv", (IMAGE, floats(2, 4, 4, 4)), {"auto_pad": pad, "strides": [2, 2]})
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    Case(
        "ConvTranspose",
        (IMAGE, floats(4, 3, 3, 3), floats(3)),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Case("ConvTranspose", (LINE, floats(4, 2, 4)), {"strides": [2], "pads": [0, 1], "group": 2}),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("MaxPool", (LINE,), {"kernel_shape": [3], "dilations": [2]}),
    *(
        Case(
            "AveragePool",
            (IMAGE,),
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": c},
        )
        for c in (0, 1)
    ),
    *(
        Case(
            "AveragePool",
            (IMAGE,),
            {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": c},
        )
        for c in (0, 1)
    ),
    Case("AveragePool", (IMAGE,), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("GlobalAveragePool", (IMAGE,)),
    Case("GlobalMaxPool", (LINE,)),
    Case("BatchNormalization", (IMAGE, floats(4), floats(4), floats(4), np.abs(floats(4))), {"epsilon": 1e-3}),
    Case("InstanceNormalization", (IMAGE, floats(4), floats(4))),
    Case("GroupNormalization", (IMAGE, floats(4), floats(4)), {"num_groups": 2}, opset=21),
    Case("LayerNormalization", (floats(2, 3, 4), floats(4), floats(4)), {"epsilon": 1e-3}),
    Case("LayerNormalization", (floats(2, 3, 4), floats(3, 4)), {"axis": 1}),
    Case("RMSNormalization", (floats(2, 3, 4), floats(4)), opset=23),
    Case("LRN", (IMAGE,), {"size": 3, "alpha": 0.1}),
    Case("Dropout", (X,)),
    Case("Dropout", (X,), {"ratio": 0.3}, opset=10),
    Case(
        "Attention",
        (floats(2, 5, 8), floats(2, 6, 8), floats(2, 6, 8)),
        {"q_num_heads": 2, "kv_num_heads": 2},
        opset=23,
    ),
    *(
        Case(
            "Resize",
            (IMAGE, None, None, ints(2, 4, 10, 14)),
            {"mode": "linear", "coordinate_transformation_mode": mode},
        )
        for mode in ("half_pixel", "align_corners", "pytorch_half_pixel")
    ),
    Case("Resize", (IMAGE, None, np.array([1, 1, 2, 2], np.float32)), {"mode": "nearest"}),
    Case(
        "Resize",
        (IMAGE, None, np.array([1, 1, 1.5, 2], np.float32)),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    Case("Resize", (IMAGE, None, None, ints(2, 4, 10, 5)), {"mode": "cubic", "cubic_coeff_a": -0.75}),
    Case("Upsample", (IMAGE, np.array([1, 1, 2, 3], np.float32)), opset=9),
]


def by_onnx_runtime(case: Case) -> list[Array]:
    given = {f"i{k}": value for k, value in enumerate(case.inputs) if value is not None}
    names = ["" if value is None else f"i{k}" for k, value in enumerate(case.inputs)]
    node = helper.make_node(case.op, names, [f"o{k}" for k in range(case.outputs)], **case.attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), np.shape(value))
        for name, value in list(given.items())[:1]
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in list(given.items())[1:]]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "g", infos, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {infos[0].name: np.asarray(next(iter(given.values())))})]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.opset}")
def test_agrees_with_onnx_runtime(case: Case) -> None:
    """The function's outputs have ONNX Runtime's shapes, types and values."""
    names = ["" if value is None else f"i{k}" for k, value in enumerate(case.inputs)]
    node = helper.make_node(case.op, names, [f"o{k}" for k in range(case.outputs)], **case.attributes)
    values = {f"i{k}": torch.from_numpy(np.array(v)) for k, v in enumerate(case.inputs) if v is not None}
    ours = list(run_node(node, values, case.opset).values())
    expected = by_onnx_runtime(case)
    assert len(ours) >= len(expected)
    for value, reference in zip(ours, expected, strict=False):
        assert tuple(value.shape) == reference.shape
        assert value.numpy().dtype == reference.dtype
        np.testing.assert_allclose(value.numpy(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Resize", ["i0", "", "i1"], ["o0"], mode="nearest", nearest_mode="ceil"),
        helper.make_node("Conv", ["i0", "i1"], ["o0"], padding_mode="circular"),
    ],
)
def test_options_that_are_not_supported_are_named(node: Any) -> None:
    """An operator used in a way that would silently compute something else is refused."""
    values = {"i0": torch.ones(1, 1, 3, 3), "i1": torch.tensor([1.0, 1.0, 1.5, 1.5])}
    with pytest.raises(UnsupportedModel) as caught:
        run_node(node, values, 17)
    assert caught.value.code == "unsupported_operator"
