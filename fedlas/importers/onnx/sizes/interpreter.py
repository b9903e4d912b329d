"""Abstract interpretation of a graph: sizes and intervals of all tensors, for inputs of given sizes and any values.

Where an operator reads a size that depends on values, the largest number that it may be counts; where that makes a
tensor larger than `MAX_ELEMENTS`, a limiter may write a limit into the graph, else the graph is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Array, Attribute, Graph, Shape, integer, make_node
from fedlas.importers.onnx.input_roles import COUNTING, READ, read_at
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.sizes.abstract_tensor import (
    COMPUTED,
    FLOATS,
    AbstractTensor,
    bounded_tensor,
    constant_tensor,
    unbounded_tensor,
)
from fedlas.importers.onnx.sizes.folding import fold, fold_bounds
from fedlas.importers.onnx.sizes.shape_inference import RULES, infer_results, ruled_shapes
from fedlas.importers.onnx.sizes.shape_rules import Inputs, ShapeMismatch
from fedlas.importers.onnx.sizes.value_ranges import ARITHMETIC, element_bounds

#: Elements that a tensor may have at most where its sizes depend on values, for the two rows that are looked at; or so
#: many times the elements of the largest input, where those are more.
MAX_ELEMENTS = 2**25
_MOST_TIMES = 64
ROWS = 2
#: Results of floats without bounds have none.
_SPREADING = frozenset({"Add", "Sub", "Mul", "Div"})
_ANY = (-np.inf, np.inf)
#: The result has as many elements as the first input.
_KEEPS_COUNT = frozenset({"Reshape", "Transpose", "Flatten", "Identity", "Cast", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class SizeBound:
    """A size that depends on values, and the largest that it may be."""

    tensor: str
    limit: int


class Interpretation:
    """One pass over a graph.

    Attributes:
        max_elements: that a tensor may have whose size depends on values.
        tensors: every tensor of the graph by name.
        bounds: the sizes that depend on values.
        nodes: those of the graph and those that the limiter has written, in order.

    Raises:
        UnsupportedModel: `size_depends_on_values`.
        ShapeMismatch: with `strict`, where the graph does not take inputs of these sizes.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Shape],
        *,
        constants: dict[str, AbstractTensor],
        limiter: Limiter | None = None,
        strict: bool = False,
    ) -> None:
        self.graph, self.limiter, self._strict = graph, limiter, strict
        # Elements in proportion to the rows.
        rows = max([ROWS, *(shape[0] for shape in inputs.values() if shape)])
        most = [MAX_ELEMENTS * rows // ROWS, *(_MOST_TIMES * math.prod(shape) for shape in inputs.values())]
        self.max_elements = max(most)
        self.tensors: dict[str, AbstractTensor] = {}
        self.bounds: list[SizeBound] = []
        self.nodes: list[NodeProto] = []
        for name, value in graph.constants.items():
            if name not in constants:
                constants[name] = constant_tensor(value)
            self.tensors[name] = constants[name]
        for info in graph.inputs:
            self.tensors[info.name] = unbounded_tensor(info.type.tensor_type.elem_type, tuple(inputs[info.name]))
        for node in graph.nodes:
            self.visit(node)

    def visit(self, node: NodeProto) -> None:
        """Interpret one node."""
        name = operator_name(node)
        for position in range(len(node.input)):
            self._check(node, name, position)
        for tensor, result in zip(node.output, self._results(node, name, self.inputs_of(node)), strict=True):
            if tensor:
                if not result.fixed and (result.count or 0) > self.max_elements:
                    raise _refused(node, tensor, "are multiplied to")
                self.tensors[tensor] = result
        self.nodes.append(node)

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """Write a node before the one that is interpreted; returns the name of its result."""
        output = self.graph.fresh("fedlas_limited")
        self.visit(make_node(op_type, inputs, [output], **attributes))
        return output

    def add_constant(self, stem: str, value: Array) -> str:
        """Store a constant in the graph; returns its name."""
        name = self.graph.add_constant(stem, value)
        self.tensors[name] = constant_tensor(value)
        return name

    def inputs_of(self, node: NodeProto) -> list[AbstractTensor | None]:
        """What is known of a node's inputs, None where one is left out."""
        return [self.tensors.get(name) if name else None for name in node.input]

    def fits(self, node: NodeProto, inputs: Inputs) -> bool:
        """Whether a node makes no tensor larger than may be."""
        try:
            shapes = ruled_shapes(node, inputs, self.graph.opset)
        except Exception:  # no rule for this use of the operator
            return False
        return all(shape is not None and math.prod(shape) <= self.max_elements for shape in shapes)

    def _check(self, node: NodeProto, name: str, position: int) -> None:
        """Take note of a size that depends on values; limit or refuse it where it has no end."""
        tensor = self.tensors.get(node.input[position])
        if tensor is None or not tensor.varies or read_at(node, position) != "s":
            return
        if not self._is_limited(node, name, position) and self.limiter is not None:
            self.limiter(self, node, position)
        if not self._is_limited(node, name, position):
            raise _refused(node, node.input[position], "has no limit in")
        limited = self.tensors[node.input[position]]
        wide = limited.high[limited.low != limited.high] if limited.per_element else np.asarray(limited.bounds[1])
        self.bounds.append(SizeBound(node.input[position], int(wide.max())))

    def _is_limited(self, node: NodeProto, name: str, position: int) -> bool:
        """Whether a size that depends on values makes no tensor larger than may be."""
        tensor = self.tensors.get(node.input[position])
        if tensor is None or not tensor.varies:
            return True
        ruled = name in RULES and name in READ and name != "StringConcat"
        return ruled and self.fits(node, self.inputs_of(node))

    def _results(self, node: NodeProto, name: str, inputs: Inputs) -> list[AbstractTensor]:
        given = [tensor for tensor in inputs if tensor is not None]
        if name in ("Shape", "Size"):
            return [_shape_tensor(node, name, given[0])]
        roles = [read_at(node, i) for i in range(len(inputs))]
        declares = "s" in roles
        if not declares and (folded := fold(name, node, inputs, self.graph.opset)) is not None:
            return folded
        steering = [tensor for tensor, role in zip(inputs, roles, strict=True) if tensor is not None and role != "v"]
        reading = any(tensor.varies for tensor in steering)
        # Sizes that follow from constants, but not by what is computed here.
        vague = not reading and any(tensor.value is None for tensor in steering)
        fixed = all(tensor.fixed for tensor in given) and not reading and name not in COUNTING
        tainted = any(tensor.tainted for tensor in given) or not fixed
        results = []
        for position, (elem, shape) in enumerate(self._sizes(node, inputs)):
            shape = None if vague else shape
            result = _with_bounds(node, name, inputs, position, elem, shape)
            count = given[0].count if given and name in _KEEPS_COUNT else None
            most = None if given and given[0].fixed and shape is not None else count
            results.append(replace(result, fixed=fixed, tainted=tainted, max_elements=most))
        few = all(result.count is not None and result.count <= COMPUTED for result in results)
        if declares and few and (folded := fold(name, node, inputs, self.graph.opset)) is not None:
            return folded
        return [fold_bounds(name, node, inputs, result, self.graph.opset) for result in results]

    def _sizes(self, node: NodeProto, inputs: Inputs) -> list[tuple[int, Shape | None]]:
        try:
            return infer_results(node, inputs, self.graph)
        except ShapeMismatch:
            if self._strict:
                raise
            return [(0, None)] * len(node.output)


#: Writes limits into a graph while it is interpreted: changes the node's input at a position where it can.
Limiter = Callable[[Interpretation, NodeProto, int], None]


def _shape_tensor(node: NodeProto, name: str, source: AbstractTensor) -> AbstractTensor:
    """A shape is known where sizes are, and bounded where they are bounded."""
    if source.shape is None:
        shape = () if name == "Size" else None
        return unbounded_tensor(TensorProto.INT64, shape, tainted=not source.fixed)
    part = slice(integer(node, "start"), integer(node, "end"))
    sizes = np.array(source.count if name == "Size" else source.shape[part], np.int64)
    if source.fixed:
        return constant_tensor(sizes)
    return bounded_tensor(TensorProto.INT64, sizes.shape, 0.0, sizes)


def _with_bounds(
    node: NodeProto, name: str, inputs: Inputs, position: int, elem: int, shape: Shape | None
) -> AbstractTensor:
    """A result with the bounds of its elements."""
    if name in _SPREADING and elem in FLOATS and any(t is not None and t.bounds == _ANY for t in inputs):
        return unbounded_tensor(elem, shape)  # activations, which most tensors are
    try:
        bounds = element_bounds(name, node, inputs, position)
    except Exception:  # an input is missing, or of a kind that the rule does not know
        bounds = None
    if bounds is None:
        return unbounded_tensor(elem, shape)
    return bounded_tensor(elem, shape, *bounds, computed=name in ARITHMETIC)


def _refused(node: NodeProto, tensor: str, what: str) -> UnsupportedModel:
    """The graph takes a size from values, and nothing limits it."""
    return UnsupportedModel(
        "size_depends_on_values",
        f"a size that depends on the values of a row {what} {operator_name(node)} ({tensor!r}), so that one row could "
        "ask for any amount of memory; take sizes from shapes (x.shape, torch.arange(x.shape[1])), or limit them "
        "before they are used: torch.clamp(size, max=…)",
    )
