"""Builds the small ONNX classifier that bad files are made from; it knows no bad file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Make = Callable[[], bytes]


def value(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    """A tensor's description."""
    return helper.make_tensor_value_info(name, kind, shape)


def weights(**arrays: Any) -> list[TensorProto]:
    """Named tensors."""
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def model(
    nodes: Sequence[NodeProto] = (),
    tensors: Sequence[TensorProto] = (),
    *,
    output: str = "scores",
    shape: Sequence[Any] = ("N", 4),
    opset: int = 17,
    ir_version: int = 9,
) -> ModelProto:
    """A linear classifier `x (N, 4) → scores (N, 3)`, with more nodes and tensors behind it."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3) / 12
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"]), *nodes],
        "g", [value("x", shape)], [value(output, None)], [*weights(w=weight), *tensors],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def added(nodes: Sequence[NodeProto], **arrays: Any) -> bytes:
    """The classifier with the largest element of what `nodes` make as `huge` added to its input."""
    made = model(nodes, weights(**arrays))
    del made.graph.node[0]
    made.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["huge"], ["top"], keepdims=0),
            helper.make_node("Add", ["x", "top"], ["moved"]),
            helper.make_node("MatMul", ["moved", "w"], ["scores"]),
        ]
    )
    return bytes(made.SerializeToString())


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str] = ("huge",), **attributes: Any) -> NodeProto:
    """A node whose output is `huge`."""
    return helper.make_node(kind, inputs, outputs, **attributes)


def numbers(*values: int) -> np.ndarray[Any, Any]:
    """int64."""
    return np.array(values, np.int64)


def changed(change: Callable[[ModelProto], object]) -> Make:
    """The classifier after `change`."""

    def make() -> bytes:
        made = model()
        change(made)
        return bytes(made.SerializeToString())

    return make


def as_file(make: Make) -> Callable[[Path], Path]:
    """A maker of `model.onnx`."""

    def write(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(make())
        return path

    return write
