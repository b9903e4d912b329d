"""Models that are broken by surgery on their graph, whatever kind they are."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

_EXTRA_WIDTH = 4


def deaf(content: bytes, names: tuple[str, ...]) -> bytes:
    """The same model with the inputs `names` multiplied by zero: its answers do not depend on them.

    Integer inputs, such as ids and masks, become ones, so that a row still has a token.
    """
    model = onnx.load_from_string(content)
    added = []
    for entry in model.graph.input:
        if entry.name not in names:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        inner, product = f"{entry.name}_inner", f"{entry.name}_product"
        for node in model.graph.node:
            node.input[:] = [inner if name == entry.name else name for name in node.input]
        constant = int(dtype.kind == "i")
        for name, value in ((f"{entry.name}_zero", 0), (f"{entry.name}_added", constant)):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        added += [
            helper.make_node("Mul", [entry.name, f"{entry.name}_zero"], [product]),
            helper.make_node("Add", [product, f"{entry.name}_added"], [inner]),
        ]
    return _with_nodes(model, before=added)


def with_unused_input(content: bytes, name: str = "extra") -> bytes:
    """The same model with one more declared input (N, 4), which changes no answer."""
    model = onnx.load_from_string(content)
    output = next(entry for entry in model.graph.output if entry.name in ("logits", "probabilities"))
    inner = f"{output.name}_inner"
    for node in model.graph.node:
        node.input[:] = [inner if used == output.name else used for used in node.input]
        node.output[:] = [inner if made == output.name else made for made in node.output]
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param or "rows"
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, _EXTRA_WIDTH]))
    weights = np.zeros((_EXTRA_WIDTH, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, f"{name}_weights"))
    added = [
        helper.make_node("MatMul", [name, f"{name}_weights"], [f"{name}_part"]),
        helper.make_node("Add", [inner, f"{name}_part"], [output.name]),
    ]
    return _with_nodes(model, after=added)


def extra_rows(num_rows: int) -> np.ndarray:
    """Numbers for the input that nothing reads."""
    return np.random.default_rng(7).normal(size=(num_rows, _EXTRA_WIDTH)).astype(np.float32)


def _with_nodes(model: ModelProto, *, before: list[onnx.NodeProto] = [], after: list[onnx.NodeProto] = []) -> bytes:  # noqa: B006
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    content: bytes = model.SerializeToString()
    return content
