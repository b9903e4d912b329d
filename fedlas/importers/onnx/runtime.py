"""ONNX Runtime of a file, of a graph, and of single nodes for which the operator table has no function.

What lies behind such a node trains as ever; weights before it are constants, since no gradient reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx import NodeProto, OperatorSetIdProto, TensorProto, TypeProto, defs, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Array, Graph, Shape
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.table import (
    COUNTING,
    STANDARD_DOMAINS,
    Function,
    as_tensor,
    bounded,
    elem_type,
    keywords,
    misfits,
    read_at,
    refused,
)

#: Up to so many elements an input may be what a size is read from.
_MAX_SIZE_VALUES = 64
#: ONNX Runtime's reason for a refusal belongs to the sender, but not in pages.
_MAX_REASON = 300
_NUMBERS = frozenset(f"tensor({kind})" for kind in ("float", "int64", "int32", "uint8", "bool"))


def known_sizes(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> list[tuple[int, Shape]]:
    """The type of each output in ONNX's numbering and its sizes; none where ONNX's inference does not tell all."""
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    types = {
        name: helper.make_tensor_type_proto(elem_type(value.dtype), tuple(value.shape)) for name, value in given.items()
    }
    try:
        few = {name: value.numpy() for name, value in given.items() if value.numel() <= _MAX_SIZE_VALUES}
        data = {name: numpy_helper.from_array(value, name) for name, value in few.items()}
        schema = defs.get_schema(node.op_type, opset, node.domain)
        output_types = infer_node_outputs(schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)])
    except Exception:  # whatever does not fit the operator: what computes it says it better
        return []
    sizes = [inferred_size(value) for value in output_types.values()]
    known = [(elem, shape) for elem, shape in sizes if shape is not None]
    return known if len(known) == len(sizes) else []


def inferred_size(inferred: TypeProto | None) -> tuple[int, Shape | None]:
    """The type in ONNX's numbering, 0 where its inference gives none, and the sizes where it tells all."""
    if inferred is None or not inferred.HasField("tensor_type"):
        return 0, None
    tensor = inferred.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)


def open_session(model: str | Path | bytes, *, optimised: bool = True, threads: int = 0) -> ort.InferenceSession:
    """A quiet session on the CPU, of a path or a serialised model; `threads` 0 leaves their number to ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def predict_file(
    model: str | Path | bytes, inputs: Sequence[Array], *, batch_size: int = 256, optimised: bool = True
) -> dict[str, Array]:
    """Every output of a file by name, for one array of rows per input, computed in batches; raises ValueError."""
    session = open_session(model, optimised=optimised)
    names = [value.name for value in session.get_inputs()]
    if len(names) != len(inputs):
        raise ValueError(f"the model has the inputs {names}, {len(inputs)} arrays were given")
    outputs = [value.name for value in session.get_outputs()]
    parts = []
    for start in range(0, max(len(inputs[0]), 1), batch_size):
        batch = {name: value[start : start + batch_size] for name, value in zip(names, inputs, strict=True)}
        parts.append(session.run(outputs, batch))
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(outputs)}


class GraphSession:
    """Some nodes of a graph in a session; never changed, so copies of a classifier share it."""

    def __init__(self, graph: Graph, outputs: Sequence[str], *, typed: bool = True) -> None:
        kind = TensorProto.FLOAT if typed else TensorProto.UNDEFINED
        shown = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        for value in shown if not typed else ():
            value.ClearField("type")
        self.outputs = list(outputs)
        self.dtypes = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in graph.inputs}
        try:
            self.session = open_session(graph.to_model(shown).SerializeToString(), threads=torch.get_num_threads())
        except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
            raise not_runnable(error) from error

    def __deepcopy__(self, memo: dict[int, object]) -> GraphSession:
        return self

    def __call__(self, rows: Sequence[Array]) -> list[Array]:
        """The outputs of an array per input, maps and sequences as the runtime has them; raises UnsupportedModel."""
        given = {name: np.asarray(value, dtype) for (name, dtype), value in zip(self.dtypes.items(), rows, strict=True)}
        try:
            return list(self.session.run(self.outputs, given))
        except Exception as error:
            raise not_runnable(error) from error


def not_runnable(error: Exception) -> UnsupportedModel:
    return UnsupportedModel("not_runnable", f"ONNX Runtime cannot run the model: {str(error)[:_MAX_REASON]}")


class RuntimeNode(nn.Module):
    """One node as a module; it has no weights and no gradient, and computes on the CPU."""

    def __init__(self, node: NodeProto, opset: int) -> None:
        super().__init__()
        self.content, self.opset = node.SerializeToString(deterministic=True), opset

    @torch.no_grad()
    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """The node's outputs on the inputs' device; raises UnsupportedModel, also for inputs that have shapes alone."""
        given = [value for value in inputs if value is not None]
        if any(value.is_meta for value in given):
            raise UnsupportedModel("unsupported_operator", "ONNX Runtime computes values, not shapes alone")
        on_host = [None if value is None else value.detach().cpu() for value in inputs]
        _check_size(NodeProto.FromString(self.content), on_host, self.opset)
        types = tuple(0 if value is None else elem_type(value.dtype) for value in inputs)
        try:
            arrays = _session(self.content, self.opset, types)(
                [value.numpy() for value in on_host if value is not None]
            )
            results = [as_tensor(value) for value in arrays]
        except UnsupportedModel as error:
            raise UnsupportedModel("unsupported_operator", error.message) from error
        device = next((value.device for value in given if value.device.type != "cpu"), torch.device("cpu"))
        return tuple(value.to(device) for value in results)


def _check_size(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> None:
    """Refuse outputs that are too large by ONNX's inference, or by the numbers that the operator reads as sizes."""
    read = [value for i, value in enumerate(inputs) if value is not None and read_at(node, i) == "s"]
    # ONNX Runtime takes a vector of one number where inference wants a number.
    numbers = {id(value): value.reshape(()) for value in read if value.numel() == 1}
    sizes = known_sizes(node, inputs, opset) or known_sizes(
        node, [numbers.get(id(value), value) for value in inputs], opset
    )
    for _, shape in sizes:
        bounded(shape)
    if not sizes and node.op_type not in COUNTING:
        bounded([int(abs(number)) for value in read for number in value.ravel().tolist()])


@lru_cache(maxsize=256)
def _session(content: bytes, opset: int, types: tuple[int, ...]) -> GraphSession:
    """The node for inputs of these types (0: left out), under names of its own, as one tensor may be read twice."""
    node = NodeProto.FromString(content)
    outputs = [f"output_{i}" for i in range(len(node.output))]
    inputs = [f"input_{i}" if kind else "" for i, kind in enumerate(types)]
    node = NodeProto(op_type=node.op_type, attribute=node.attribute, input=inputs, output=outputs)
    infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(inputs, types, strict=True) if kind]
    imports = [OperatorSetIdProto(version=opset)]
    graph = Graph([node], {}, infos, outputs, opset, imports, helper.find_min_ir_version_for(imports))
    return GraphSession(graph, outputs, typed=False)


def is_runtime_node(node: NodeProto) -> bool:
    """True where ONNX Runtime computes the node alone: no function of the table knows it, or none knows its options."""
    if node.domain not in STANDARD_DOMAINS or (node.op_type in OPERATORS and not misfits(node)):
        return False
    return not refused([node]) and _takes_tensors(node.op_type)


@cache
def _takes_tensors(op_type: str) -> bool:
    """True where all that an operator reads and makes may be tensors of numbers, not text, sequences or optionals."""
    schema = defs.get_schema(op_type)
    return all(_NUMBERS & {str(kind) for kind in value.types} for value in (*schema.inputs, *schema.outputs))


@dataclass(frozen=True)
class Call:
    """How a node is computed; `host` as in `Operator`, `several` where the function answers with a tuple."""

    function: Function
    keywords: Mapping[str, object]
    host: tuple[int, ...]
    several: bool


def call_of(node: NodeProto, opset: int) -> Call:
    """The table's function, or ONNX Runtime, which takes all inputs on the host; raises UnsupportedModel."""
    if is_runtime_node(node):
        return Call(RuntimeNode(node, opset), {}, tuple(range(len(node.input))), several=True)
    entry = OPERATORS[operator_name(node)]
    several = entry.several or ("num_outputs" in entry.keywords and len(node.output) > 1)
    return Call(entry.function, keywords(node, opset), entry.host, several)
