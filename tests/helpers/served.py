"""Small files with the standard outputs, as inspection leaves them, made by hand; they know no service."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


def scaling(factor: float, *, columns: int | str = 2) -> bytes:
    """logits = factor · x for x (N, columns)."""
    weight = numpy_helper.from_array(np.array([factor], dtype=np.float32), "factor")
    return _file(TensorProto.FLOAT, columns, [helper.make_node("Mul", ["x", "factor"], ["logits"])], [weight])


def lookup(table: np.ndarray) -> bytes:
    """logits = table[x] for x (N, 1) of int64; a token beyond the table cannot be computed."""
    shape = numpy_helper.from_array(np.array([-1, table.shape[1]], dtype=np.int64), "shape")
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["found"]),
        helper.make_node("Reshape", ["found", "shape"], ["logits"]),
    ]
    return _file(TensorProto.INT64, 1, nodes, [numpy_helper.from_array(table, "table"), shape])


def hungry() -> bytes:
    """logits = x for x (N, 2), after a tensor of as many zeros as the first value says was made."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "one"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["logits"]),
    ]
    return _file(TensorProto.FLOAT, 2, nodes, [numpy_helper.from_array(np.array([1], dtype=np.int64), "one")])


def crashing(offset: float = 0.0) -> bytes:
    """logits = x for x (N, 2); values below -1e19 with the offset end the process: the least integer, divided by -1."""
    nodes = [
        helper.make_node("Add", ["x", "offset"], ["moved"]),
        helper.make_node("Cast", ["moved"], ["whole"], to=TensorProto.INT64),  # the least one for what is too small
        helper.make_node("Div", ["whole", "minus_one"], ["turned"]),
        helper.make_node("Sub", ["turned", "turned"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["zero"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "zero"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([-1], dtype=np.int64), "minus_one"),
        numpy_helper.from_array(np.array([offset], dtype=np.float32), "offset"),
    ]
    return _file(TensorProto.FLOAT, 2, nodes, weights)


def toiling(steps: int) -> bytes:
    """logits = x for x (N, 2), after so many products of matrices whose side is the first value of the first row."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["side"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["side", "one"], ["length"]),
        helper.make_node("Concat", ["length", "length"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["product0"]),
        *(helper.make_node("MatMul", [f"product{step}", "product0"], [f"product{step + 1}"]) for step in range(steps)),
        helper.make_node("ReduceSum", [f"product{steps}"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["logits"]),
    ]
    return _file(TensorProto.FLOAT, 2, nodes, [numpy_helper.from_array(np.array([1], dtype=np.int64), "one")])


def _file(kind: int, columns: int | str, nodes: Sequence[NodeProto], weights: Sequence[TensorProto]) -> bytes:
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    tail = [
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "axes"], ["confidence"], keepdims=0),
        helper.make_node("Identity", ["logits"], ["features"]),
    ]
    outputs = [
        *(helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", "K"]) for n in ("logits", "probabilities")),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", "K"]),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, ["N", columns])]
    graph = helper.make_graph([*nodes, *tail], "g", inputs, outputs, [*weights, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
