"""The cost of rows of a graph, counted from sizes and not timed: bytes, and how they grow with rows and lengths.

Abstract interpretation of a graph: types and sizes of all tensors, for inputs of given sizes and any values.

A graph in which an operator reads a size that depends on values is refused: one row could ask for any amount of memory.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference
from onnx.shape_inference import InferenceError
from torch import Tensor

from fedlas.contract.profiles import ServingCost, TensorSpec
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
from fedlas.importers.onnx.evaluator import apply_node, example_inputs, run_node
from fedlas.importers.onnx.graph import Graph, Shape, attribute, integer, tensor
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.table import (
    COUNTING,
    STANDARD_DOMAINS,
    as_tensor,
    elem_type,
    read_at,
    torch_dtype,
    words,
)
from fedlas.importers.onnx.runtime import GraphSession, inferred_size

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
    output_types = shape_inference.infer_node_outputs(schema, node, types, data, None, opsets, graph.ir_version)
    return [inferred_size(output_types.get(name)) for name in node.output]


def _by_function(node: NodeProto, inputs: Inputs, opset: int) -> list[Result]:
    host = OPERATORS[operator_name(node)].host

    def operand(position: int, tensor: AbstractTensor) -> Tensor:
        if position in host and tensor.value is not None:
            return as_tensor(tensor.value)
        return torch.empty(tensor.shape or (), dtype=torch_dtype(tensor.elem or TensorProto.FLOAT), device="meta")

    operands = [None if tensor is None else operand(i, tensor) for i, tensor in enumerate(inputs)]
    outputs = apply_node(node, operands, opset)
    return [_UNKNOWN if r is None else (elem_type(r.dtype), tuple(r.shape)) for r in map(outputs.get, node.output)]


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
        outputs = {name: value.numpy() for name, value in run_node(node, tensors, opset).items()}
    except (UnsupportedModel, Mismatch, KeyError, TypeError, RuntimeError):
        return None
    if not all(output in outputs for output in node.output if output):
        return None
    return [constant_tensor(outputs[name]) if name else AbstractTensor(0, None) for name in node.output]


def _refused(node: NodeProto, tensor: str, what: str) -> UnsupportedModel:
    return UnsupportedModel(
        "size_depends_on_values",
        f"a size that depends on the values of a row {what} {operator_name(node)} ({tensor!r}), so that one row could "
        "ask for any amount of memory; take sizes from shapes (x.shape, torch.arange(x.shape[1])) or write them as "
        "numbers",
    )


#: Numbers of rows at which all tensors are counted.
_ROWS = (1, 2, 4, 8)
_MAX_ROWS = 4096
#: Rows that a graph is run on where the sizes of a tensor are not known.
_MAX_COMPUTED_ROWS = 64
#: Multiples of the lengths that are known to run at which powers are counted, and at twice of which.
_FACTORS = (64, 8, 1, 0.5, 0.25)


def serving_cost(graph: Graph, inputs: Sequence[TensorSpec], lengths: Mapping[str, int]) -> ServingCost:
    """Count the elements of all tensors for several numbers of rows and lengths of every free dimension.

    Raises:
        UnsupportedModel: `size_depends_on_values`; `grows_faster_than_rows` where a tensor has more than so many times
            the elements for so many times the rows.
    """
    constants: dict[str, AbstractTensor] = {}

    def run(rows: int, lengths: Mapping[str, int] = lengths, *, strict: bool = False) -> Interpretation:
        return Interpretation(graph, row_shapes(inputs, lengths, rows), constants=constants, strict=strict)

    # One number of rows is drawn, so that no graph can be written to grow between the others.
    runs = {n: run(n) for n in (*_ROWS, 9 + secrets.randbelow(_MAX_ROWS - 9), _MAX_ROWS)}
    computed = [runs[2].tensors[name] for node in graph.nodes for name in node.output if name]
    unknown = [name for node in graph.nodes for name in node.output if name and runs[2].tensors[name].count is None]
    if unknown:
        n = 9 + secrets.randbelow(_MAX_COMPUTED_ROWS - 8)
        runs[n] = run(n)
        session = GraphSession(graph, unknown, typed=False)
        for rows in [rows for rows in runs if rows <= _MAX_COMPUTED_ROWS]:
            # ONNX Runtime makes so many elements of made-up rows.
            outputs = session([value.numpy() for value in example_inputs(list(inputs), rows, lengths).values()])
            for name, value in zip(unknown, outputs, strict=True):
                count = sum(map(np.size, value)) if isinstance(value, list) else np.size(value)
                runs[rows].tensors[name] = replace(runs[rows].tensors[name], max_elements=int(count))
    _refuse_growth(runs)
    (all_two, peak_two), (all_four, peak_four) = (_bytes(graph, runs[n]) for n in (2, 4))
    row_bytes = max(0, (all_four - all_two) // 2)
    known = all(tensor.shape is not None for tensor in computed)
    return ServingCost(
        sizes="unknown" if not known else "shapes" if all(tensor.fixed for tensor in computed) else "bounded",
        fixed_bytes=sum(value.nbytes for value in graph.constants.values()) + max(0, all_two - 2 * row_bytes),
        row_bytes=row_bytes,
        peak_row_bytes=max(0, (peak_four - peak_two) // 2),
        powers=_powers(run, inputs, lengths),
    )


def _refuse_growth(runs: Mapping[int, Interpretation]) -> None:
    """No tensor has, for any number of rows, more elements than a line through what it has for few rows says."""
    for node in runs[1].graph.nodes:
        counts = {rows: _elements(run, node) for rows, run in runs.items()}
        one, two, four = (counts[rows] or 0 for rows in (1, 2, 4))
        slope = max(two - one, (four - two) / 2)
        for rows, count in counts.items():
            if count is not None and count > 1.01 * (one + slope * (rows - 1)) + rows:
                raise UnsupportedModel(
                    "grows_faster_than_rows",
                    f"{operator_name(node)} ({node.output[0]!r}) makes {one:,} elements of one row and {count:,} "
                    f"of {rows}, more than in proportion: a batch costs more than its rows do; compute each row alone",
                )


def _elements(run: Interpretation, node: NodeProto) -> int | None:
    """Elements of a node's outputs and inside it: products of all axes of an Einsum, scores of attention."""
    counts = [run.tensors[name].count for name in node.output if name]
    if any(count is None for count in counts):
        return None
    shapes = [run.tensors[name].shape for name in node.input if name]
    return sum(count or 0 for count in counts) + _inside(node, [shape for shape in shapes if shape is not None])


def _inside(node: NodeProto, shapes: Sequence[Shape]) -> int:
    if node.op_type == "Einsum":
        terms = attribute(node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
        sizes: dict[str, int] = {}
        for term, shape in zip(terms, shapes, strict=False):
            named = zip(term, shape, strict=False) if "." not in term else ()
            sizes.update({label: max(size, sizes.get(label, 1)) for label, size in named})
        return math.prod(sizes.values())
    if node.op_type.endswith("Attention") and shapes and len(shapes[0]) > 2:
        query, key = shapes[0], shapes[1] if len(shapes) > 1 and len(shapes[1]) == len(shapes[0]) else shapes[0]
        return math.prod(query[:-1]) * key[-2]
    return 0


def _bytes(graph: Graph, run: Interpretation) -> tuple[int, int]:
    """The bytes of all computed tensors, and the most that are alive at once, each until its last use."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.input}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    computed = {name: run.tensors[name] for node in graph.nodes for name in node.output if name}
    # Text and unknown types count as eight bytes.
    sizes = {
        name: (t.count or 0)
        * (8 if t.elem in (0, TensorProto.STRING) else helper.tensor_dtype_to_np_dtype(t.elem).itemsize)
        for name, t in computed.items()
    }
    alive = peak = 0
    for i, node in enumerate(graph.nodes):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in {*node.input, *node.output} if last.get(name, -1) <= i)
    return sum(sizes.values()), peak


def _powers(
    run: Callable[..., Interpretation], inputs: Sequence[TensorSpec], lengths: Mapping[str, int]
) -> dict[str, float]:
    """Growth exponent of each free dimension, alone where the graph lets it change alone, else of all at once."""
    places = [
        (f"{s.name}.{axis}", size) for s in inputs for axis, size in enumerate(s.shape) if axis and size in lengths
    ]
    free = {str(size) for _, size in places}
    powers = {size: _power(run, lengths, {size}) for size in free}
    if len(free) > 1 and None in powers.values():
        together = _power(run, lengths, free)
        powers = {size: together if power is None else power for size, power in powers.items()}
    return {place: power for place, size in places if (power := powers[str(size)]) is not None}


def _power(run: Callable[..., Interpretation], lengths: Mapping[str, int], free: set[str]) -> float | None:
    """The largest over all tensors, at lengths as great as the graph takes: there what grows fastest counts."""
    for factor in _FACTORS:
        runs = []
        for share in (factor, 2 * factor):
            changed = {name: max(1, int(size * share)) if name in free else size for name, size in lengths.items()}
            try:
                runs.append(run(2, changed, strict=True))
            except (ShapeMismatch, UnsupportedModel):  # a table of positions ends, or parts no longer fit each other
                break
        if len(runs) == 2:
            pairs = [(_elements(runs[0], node), _elements(runs[1], node)) for node in runs[0].graph.nodes]
            return round(max([0.0, *(math.log2(b / a) for a, b in pairs if a and b)]), 3)
    return None
