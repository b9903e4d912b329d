"""Types and sizes of a node's results: by this package's rules, by ONNX's inference or by the operators' functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.shape_inference import InferenceError
from torch import Tensor

from fedlas.importers.onnx.cost.abstract_tensor import AbstractTensor, Inputs, ShapeMismatch, given
from fedlas.importers.onnx.cost.shape_rules import RULES
from fedlas.importers.onnx.evaluator import apply_node
from fedlas.importers.onnx.graph import Graph, Shape, attribute, tensor
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.dtypes import as_tensor, elem_type, torch_dtype
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS

Result = tuple[int, Shape | None]
_UNKNOWN: Result = (0, None)
_KEEPING = frozenset({"ai.onnx.ml.Imputer", "ai.onnx.ml.ArrayFeatureExtractor"})
_COMPARISONS = frozenset({"And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def infer_results(node: NodeProto, inputs: Inputs, graph: Graph) -> list[Result]:
    """The type of each output in ONNX's numbering (0 where it is not known), and its sizes at most.

    Raises:
        ShapeMismatch: the operator cannot be computed from inputs of these sizes.
    """
    name = operator_name(node)
    if name in RULES:
        try:
            shapes = RULES[name](node, inputs, graph.opset)
            return [(_result_type(name, node, inputs, i), shape) for i, shape in enumerate(shapes)]
        except ShapeMismatch:
            raise
        except Exception:  # a rule that does not cover this use: ONNX's inference may
            pass
    if any(tensor is not None and tensor.shape is None for tensor in inputs):
        return [_UNKNOWN] * len(node.output)
    try:
        own = name in OPERATORS and node.domain not in STANDARD_DOMAINS
        return _by_function(node, inputs, graph.opset) if own else _by_onnx(node, inputs, graph)
    except InferenceError as error:
        if all(tensor is None or tensor.fixed for tensor in inputs):
            raise ShapeMismatch(str(error)) from error
    except Exception:  # there is no schema, or the sizes are bounds that do not fit each other
        pass
    return [_UNKNOWN] * len(node.output)


def _by_onnx(node: NodeProto, inputs: Inputs, graph: Graph) -> list[Result]:
    imports = {"" if item.domain in STANDARD_DOMAINS else item.domain: item.version for item in graph.opset_imports}
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    schema = defs.get_schema(node.op_type, imports.get(domain, 1), domain)
    given = {name: tensor for name, tensor in zip(node.input, inputs, strict=True) if name and tensor is not None}
    types = {name: helper.make_tensor_type_proto(t.elem or TensorProto.FLOAT, t.shape) for name, t in given.items()}
    known = {name: t.value for name, t in given.items() if t.value is not None and t.value.dtype.kind != "U"}
    data = {name: numpy_helper.from_array(value, name) for name, value in known.items()}
    opsets = [helper.make_opsetid(name, number) for name, number in imports.items()]
    found = shape_inference.infer_node_outputs(schema, node, types, data, None, opsets, graph.ir_version)
    return [_read(found.get(name)) for name in node.output]


def _read(found: TypeProto | None) -> Result:
    if found is None or not found.HasField("tensor_type"):
        return _UNKNOWN
    tensor = found.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)


def _by_function(node: NodeProto, inputs: Inputs, opset: int) -> list[Result]:
    """The function of the operator table, run on shapes alone."""
    host = OPERATORS[operator_name(node)].host

    def operand(position: int, tensor: AbstractTensor) -> Tensor:
        if position in host and tensor.value is not None:
            return as_tensor(tensor.value)
        return torch.empty(tensor.shape or (), dtype=torch_dtype(tensor.elem or TensorProto.FLOAT), device="meta")

    operands = [None if tensor is None else operand(i, tensor) for i, tensor in enumerate(inputs)]
    found = apply_node(node, operands, opset)
    results = [found.get(name) for name in node.output]
    return [_UNKNOWN if r is None else (elem_type(r.dtype), tuple(r.shape)) for r in results]


_TYPES: dict[str, Callable[[NodeProto, Inputs], int]] = {
    "NonZero": lambda node, inputs: TensorProto.INT64,
    "Where": lambda node, inputs: given(inputs, 1).elem,
    "OneHot": lambda node, inputs: given(inputs, 2).elem,
    "ConstantOfShape": lambda node, inputs: getattr(tensor(node, "value"), "data_type", TensorProto.FLOAT),
    **dict.fromkeys(_COMPARISONS, lambda node, inputs: TensorProto.BOOL),
    **dict.fromkeys(
        ("HannWindow", "HammingWindow", "BlackmanWindow"),
        lambda node, inputs: attribute(node, "output_datatype", TensorProto.FLOAT),
    ),
}


def _result_type(name: str, node: NodeProto, inputs: Inputs, position: int) -> int:
    """The type of an output of an operator that has a rule: its first input's, with these exceptions."""
    if position and name in ("TopK", "Unique"):
        return int(TensorProto.INT64)
    if name.startswith("ai.onnx.ml.") and name not in _KEEPING:
        # Labels are text or integers.
        return int(TensorProto.FLOAT) if position or not name.endswith("Classifier") else 0
    return int(_TYPES[name](node, inputs)) if name in _TYPES else given(inputs, 0).elem
