"""Abstract interpretation of a graph: types and sizes of all tensors, for inputs of given sizes and any values.

A graph in which an operator reads a size that depends on values is refused: one row could ask for any amount of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference
from onnx.shape_inference import InferenceError
from torch import Tensor

from fedlas.contract.profiles import TensorSpec
from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.cost.shape_rules import (
    COMPUTED,
    RULES,
    AbstractTensor,
    Inputs,
    ShapeMismatch,
    constant_tensor,
    given,
)
from fedlas.importers.onnx.evaluator import apply_node, run_node
from fedlas.importers.onnx.graph import Graph, Shape, attribute, integer, tensor
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.roles import COUNTING, read_at
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS, as_tensor, elem_type, torch_dtype, words
from fedlas.importers.onnx.runtime import inferred_size

Result = tuple[int, Shape | None]
_UNKNOWN: Result = (0, None)
#: Elements that a tensor may have at most where its sizes depend on values, for two rows; or so many times the elements
#: of the largest input, where those are more.
MAX_ELEMENTS = 2**25
_MAX_TIMES = 64
ROWS = 2
#: The result has as many elements as the first input.
_KEEPS_COUNT = frozenset({"Reshape", "Transpose", "Flatten", "Identity", "Cast", "Squeeze", "Unsqueeze"})


def infer_results(node: NodeProto, inputs: Inputs, graph: Graph) -> list[Result]:
    """The type of each output in ONNX's numbering (0: not known), and its sizes at most; raises ShapeMismatch."""
    if (name := operator_name(node)) in RULES:
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
    return [inferred_size(found.get(name)) for name in node.output]


def _by_function(node: NodeProto, inputs: Inputs, opset: int) -> list[Result]:
    host = OPERATORS[operator_name(node)].host

    def operand(position: int, tensor: AbstractTensor) -> Tensor:
        if position in host and tensor.value is not None:
            return as_tensor(tensor.value)
        return torch.empty(tensor.shape or (), dtype=torch_dtype(tensor.elem or TensorProto.FLOAT), device="meta")

    operands = [None if tensor is None else operand(i, tensor) for i, tensor in enumerate(inputs)]
    found = apply_node(node, operands, opset)
    return [_UNKNOWN if r is None else (elem_type(r.dtype), tuple(r.shape)) for r in map(found.get, node.output)]


_TYPES: dict[str, Callable[[NodeProto, Inputs], int]] = {
    "NonZero": lambda node, inputs: TensorProto.INT64,
    "Where": lambda node, inputs: given(inputs, 1).elem,
    "OneHot": lambda node, inputs: given(inputs, 2).elem,
    "ConstantOfShape": lambda node, inputs: getattr(tensor(node, "value"), "data_type", TensorProto.FLOAT),
    **dict.fromkeys(
        words("And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual"), lambda node, inputs: TensorProto.BOOL
    ),
    **dict.fromkeys(
        words("HannWindow HammingWindow BlackmanWindow"),
        lambda node, inputs: attribute(node, "output_datatype", TensorProto.FLOAT),
    ),
}


def _result_type(name: str, node: NodeProto, inputs: Inputs, position: int) -> int:
    """The type of an output of an operator that has a rule: its first input's, with these exceptions."""
    if position and name in ("TopK", "Unique"):
        return int(TensorProto.INT64)
    if name.startswith("ai.onnx.ml.") and name not in ("ai.onnx.ml.Imputer", "ai.onnx.ml.ArrayFeatureExtractor"):
        # Labels are text or integers.
        return int(TensorProto.FLOAT) if position or not name.endswith("Classifier") else 0
    return int(_TYPES[name](node, inputs)) if name in _TYPES else given(inputs, 0).elem


def check_sizes(graph: Graph, inputs: Sequence[TensorSpec], lengths: Mapping[str, int]) -> None:
    """Raise UnsupportedModel `size_depends_on_values` where an operator reads a size from the values of a row."""
    Interpretation(graph, row_shapes(inputs, lengths, ROWS), constants={})


def row_shapes(inputs: Sequence[TensorSpec], lengths: Mapping[str, int], rows: int) -> dict[str, Shape]:
    return {i.name: (rows, *(n if isinstance(n, int) else lengths[n] for n in i.shape[1:])) for i in inputs}


class Interpretation:
    """One pass over a graph; raises UnsupportedModel (`size_depends_on_values`) and, with `strict`, ShapeMismatch.

    Attributes:
        max_elements: that a tensor may have whose size depends on values.
        tensors: every tensor of the graph by name.
    """

    def __init__(
        self, graph: Graph, inputs: Mapping[str, Shape], *, constants: dict[str, AbstractTensor], strict: bool = False
    ) -> None:
        self.graph, self._strict = graph, strict
        # Elements in proportion to the rows.
        rows = max([ROWS, *(shape[0] for shape in inputs.values() if shape)])
        self.max_elements = max(
            [MAX_ELEMENTS * rows // ROWS, *(_MAX_TIMES * math.prod(shape) for shape in inputs.values())]
        )
        self.tensors: dict[str, AbstractTensor] = {}
        for name, value in graph.constants.items():
            if name not in constants:
                constants[name] = constant_tensor(value)
            self.tensors[name] = constants[name]
        for info in graph.inputs:
            self.tensors[info.name] = AbstractTensor(info.type.tensor_type.elem_type, tuple(inputs[info.name]))
        for node in graph.nodes:
            self._visit(node)

    def _visit(self, node: NodeProto) -> None:
        inputs = [self.tensors.get(name) if name else None for name in node.input]
        for position, (name, read) in enumerate(zip(node.input, inputs, strict=True)):
            if read is not None and read.varies and _reads_size(node, position, inputs):
                raise _refused(node, name, "is read by")
        for name, result in zip(node.output, self._results(node, inputs), strict=True):
            if name and not result.fixed and (result.count or 0) > self.max_elements:
                raise _refused(node, name, "is multiplied in")
            if name:
                self.tensors[name] = result

    def _results(self, node: NodeProto, inputs: Inputs) -> list[AbstractTensor]:
        name = operator_name(node)
        given = [tensor for tensor in inputs if tensor is not None]
        if name in ("Shape", "Size"):
            return [_shape_tensor(node, given[0])]
        roles = [read_at(node, i) for i in range(len(inputs))]
        declares = "s" in roles
        if not declares and (folded := _fold(node, inputs, self.graph.opset)) is not None:
            return folded
        steering = [tensor for tensor, role in zip(inputs, roles, strict=True) if tensor is not None and role != "v"]
        reading = any(tensor.varies for tensor in steering)
        # Sizes that follow from constants, but not by what is computed here.
        vague = not reading and any(tensor.value is None for tensor in steering)
        fixed = all(tensor.fixed for tensor in given) and not reading and name not in COUNTING
        tainted = any(tensor.tainted for tensor in given) or not fixed
        count = given[0].count if given and name in _KEEPS_COUNT else None
        try:
            sizes = infer_results(node, inputs, self.graph)
        except ShapeMismatch:
            if self._strict:
                raise
            sizes = [_UNKNOWN] * len(node.output)
        results = []
        for elem, known in sizes:
            shape = None if vague else known
            most = None if given and given[0].fixed and shape is not None else count
            results.append(AbstractTensor(elem, shape, fixed, tainted, max_elements=most))
        few = all(result.count is not None and result.count <= COMPUTED for result in results)
        folded = _fold(node, inputs, self.graph.opset) if declares and few else None
        return results if folded is None else folded


def _reads_size(node: NodeProto, position: int, inputs: Inputs) -> bool:
    """True where only the number at a position limits a size; of an empty tensor a Reshape may ask for any."""
    if node.op_type == "Reshape" and position == 1:
        source = inputs[0]
        return source is None or not source.fixed or not source.count
    return read_at(node, position) == "s"


def _shape_tensor(node: NodeProto, source: AbstractTensor) -> AbstractTensor:
    if source.shape is None:
        return AbstractTensor(TensorProto.INT64, () if node.op_type == "Size" else None, tainted=not source.fixed)
    part = slice(integer(node, "start"), integer(node, "end"))
    sizes = np.array(source.count if node.op_type == "Size" else source.shape[part], np.int64)
    return constant_tensor(sizes) if source.fixed else AbstractTensor(TensorProto.INT64, sizes.shape)


def _fold(node: NodeProto, inputs: Inputs, opset: int) -> list[AbstractTensor] | None:
    """The results where all inputs are known, else None, as for operators not in the table and many elements."""
    known = {name: t.value for name, t in zip(node.input, inputs, strict=True) if t is not None and t.value is not None}
    if not known or len(known) < len(set(node.input) - {""}) or operator_name(node) not in OPERATORS:
        return None
    if math.prod(max(1, known[name].size) for name in node.input if name) > COMPUTED**2:
        return None
    try:
        tensors = {name: as_tensor(np.array(value)) for name, value in known.items()}
        found = {name: value.numpy() for name, value in run_node(node, tensors, opset).items()}
    except (UnsupportedModel, Mismatch, KeyError, TypeError, RuntimeError):
        return None
    if not all(output in found for output in node.output if output):
        return None
    return [constant_tensor(found[name]) if name else AbstractTensor(0, None) for name in node.output]


def _refused(node: NodeProto, tensor: str, what: str) -> UnsupportedModel:
    return UnsupportedModel(
        "size_depends_on_values",
        f"a size that depends on the values of a row {what} {operator_name(node)} ({tensor!r}), so that one row could "
        "ask for any amount of memory; take sizes from shapes (x.shape, torch.arange(x.shape[1])) or write them as "
        "numbers",
    )
