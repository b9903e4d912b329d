"""Follows sizes and values through a graph: abstract interpretation with intervals, for inputs of given sizes.

Inputs are any values of their types. Where an operator reads a size that depends on them, the largest number that it
may be counts; where that makes a tensor larger than `MOST_ELEMENTS`, a `Limiter` may write a limit, else the graph is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from onnx import NodeProto, TensorProto

from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.evaluator import run_node
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.dtypes import as_tensor
from fedlas.importers.onnx.sizes import shapes, values
from fedlas.importers.onnx.sizes.known import COMPUTED, FEW, FLOATS, Known, Shape, anything, constant, made
from fedlas.importers.onnx.sizes.positions import COUNTING, READ, read_at

#: Elements that a tensor may have at most where its sizes depend on values, for the two rows that are looked at; or so
#: many times the elements of the largest input, where those are more.
MOST_ELEMENTS = 2**25
_MOST_TIMES = 64
ROWS = 2
_STANDARD = ("", "ai.onnx")
#: Results of floats without bounds have none.
_SPREADING = frozenset({"Add", "Sub", "Mul", "Div"})
_ANY = (-np.inf, np.inf)
#: Elements move about or are compared: each end of the intervals is computed as values would be.
_BY_ENDS = frozenset(
    {
        "Identity",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Gather",
        "Concat",
        "Expand",
        "Tile",
        "Split",
    }
)
_ELEMENTWISE_RESULT = frozenset(shapes.RULES) & frozenset(
    values.ARITHMETIC | {"Min", "Max", "Where", "Cast", "Clip", "Floor", "Ceil", "Round", "Relu", "Sqrt", "CastLike"}
)


@dataclass(frozen=True)
class Read:
    """A size that depends on values, and the largest that it may be."""

    tensor: str
    limit: int


class Limiter(Protocol):
    """Writes limits into a graph while it is walked through."""

    def __call__(self, walk: Walk, node: NodeProto, position: int) -> list[NodeProto]:
        """Change the node's input; returns the nodes that compute the new one, none where no limit can be written."""


class Walk:
    """One pass over a graph.

    Attributes:
        most: elements that a tensor may have whose size depends on values.
        known: what is known of every tensor.
        reads: the sizes that depend on values.
        nodes: those of the graph and those that the limiter has written, in order.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Shape],
        *,
        constants: dict[str, Known],
        limiter: Limiter | None = None,
        strict: bool = False,
    ) -> None:
        self.graph, self.limiter, self._strict = graph, limiter, strict
        self.most = _most(inputs)
        self.known: dict[str, Known] = {}
        self.reads: list[Read] = []
        self.nodes: list[NodeProto] = []
        self._imports = {"" if item.domain in _STANDARD else item.domain: item.version for item in graph.opset_imports}
        for name, value in graph.constants.items():
            if name not in constants:
                constants[name] = constant(value)
            self.known[name] = constants[name]
        for info in graph.inputs:
            self.known[info.name] = anything(info.type.tensor_type.elem_type, tuple(inputs[info.name]))
        for node in graph.nodes:
            self.visit(node)

    def visit(self, node: NodeProto) -> None:
        """Find what is known of a node's outputs."""
        name = operator_name(node)
        for position in range(len(node.input)):
            self._check(node, name, position)
        inputs = [self.known.get(tensor) if tensor else None for tensor in node.input]
        found = self._results(node, name, inputs)
        for tensor, known in zip(node.output, found, strict=True):
            if tensor:
                if not known.fixed and (known.count or 0) > self.most:
                    raise refused(node, tensor, "are multiplied to")
                self.known[tensor] = known
        self.nodes.append(node)

    def sizes(self, node: NodeProto, inputs: shapes.Inputs) -> list[Shape | None]:
        """The sizes of a node's outputs by this package's rules; raises KeyError where they do not tell."""
        return list(shapes.RULES[operator_name(node)](node, inputs, self.graph.opset))

    def _check(self, node: NodeProto, name: str, position: int) -> None:
        """Take note of a size that depends on values; limit or refuse it where it has no end."""
        known = self.known.get(node.input[position])
        if known is None or not known.open or read_at(node, position) != "s":
            return
        if not self._ends(node, name, position) and self.limiter is not None:
            for made_node in self.limiter(self, node, position):
                for name_of in set(made_node.input) & self.graph.constants.keys() - self.known.keys():
                    self.known[name_of] = constant(self.graph.constants[name_of])
                self.visit(made_node)
        if not self._ends(node, name, position):
            raise refused(node, node.input[position], "has no limit in")
        limited = self.known[node.input[position]]
        wide = limited.high[limited.low != limited.high] if limited.each else np.asarray(limited.ends[1])
        self.reads.append(Read(node.input[position], int(wide.max())))

    def _ends(self, node: NodeProto, name: str, position: int) -> bool:
        """Whether a size that depends on values makes no tensor larger than may be."""
        known = self.known.get(node.input[position])
        if known is None or not known.open:
            return True
        if name not in shapes.RULES or name not in READ or name == "StringConcat":
            return False
        try:
            found = self.sizes(node, [self.known.get(tensor) if tensor else None for tensor in node.input])
        except Exception:  # no rule for this use of the operator
            return False
        return all(shape is not None and _product(shape) <= self.most for shape in found)

    def _results(self, node: NodeProto, name: str, inputs: list[Known | None]) -> list[Known]:
        given = [known for known in inputs if known is not None]
        reading = any(known is not None and known.open and read_at(node, i) != "v" for i, known in enumerate(inputs))
        fixed = all(known.fixed for known in given) and not reading and name not in COUNTING
        vague = not reading and any(
            known is not None and known.value is None and read_at(node, i) != "v" for i, known in enumerate(inputs)
        )
        sized = [self._size(node, name, inputs, i) for i in range(len(node.output))]
        results = []
        for position, (elem, shape) in enumerate(sized):
            if vague:  # the sizes follow from constants, but not by what is computed here
                shape = None
            if name in ("Shape", "Size"):
                results.append(self._shape_value(node, name, given[0]))
                continue
            tainted = any(known.tainted for known in given) or not fixed
            result = self._bounds(node, name, inputs, position, elem, shape)
            results.append(replace(result, fixed=fixed, tainted=tainted, most=self._most(name, given, shape)))
        if given and all(known.value is not None for known in given):
            results = self._computed(node, name, inputs, results)
        return [self._by_ends(node, name, inputs, result) for result in results]

    def _size(self, node: NodeProto, name: str, inputs: list[Known | None], position: int) -> tuple[int, Shape | None]:
        if name in shapes.RULES:
            try:
                found = self.sizes(node, inputs)
                return values.result_type(node, name, inputs, position), found[position]
            except Exception as failure:
                if self._strict and isinstance(failure, shapes.Misfit):
                    raise
                # A rule that does not cover this use: ONNX's inference may.
        if any(known is not None and known.shape is None for known in inputs):
            return 0, None
        try:
            elem, shape = shapes.inferred(node, inputs, self._imports, self.graph.ir_version)[position]
        except Exception:  # ONNX has no schema, or the sizes are bounds that do not fit each other
            return 0, None
        return elem or values.result_type(node, name, inputs, position), shape

    def _shape_value(self, node: NodeProto, name: str, source: Known) -> Known:
        """A shape is known where sizes are, and bounded where they are bounded."""
        marks = {"fixed": True, "tainted": not source.fixed}
        if source.shape is None:
            return anything(TensorProto.INT64, () if name == "Size" else None, **marks)
        part = slice(*(next((a.i for a in node.attribute if a.name == end), None) for end in ("start", "end")))
        sizes = np.array(source.count if name == "Size" else source.shape[part], np.int64)
        if source.fixed:
            return constant(sizes)
        return made(TensorProto.INT64, sizes.shape, np.zeros(sizes.shape), sizes, **marks)

    def _bounds(
        self, node: NodeProto, name: str, inputs: list[Known | None], position: int, elem: int, shape: Shape | None
    ) -> Known:
        if name in _SPREADING and elem in FLOATS and any(k is not None and k.ends == _ANY for k in inputs):
            return anything(elem, shape)  # activations, which most tensors are
        try:
            ends = values.between(name, node, inputs, position)
        except Exception:  # an input is missing, or of a kind that the rule does not know
            ends = None
        if ends is None:
            return anything(elem, shape)
        low, high = np.broadcast_arrays(*(np.asarray(end, np.float64) for end in ends))
        if low.shape and (name not in _ELEMENTWISE_RESULT or low.shape != shape):
            low, high = np.asarray(low.min(initial=np.inf)), np.asarray(high.max(initial=-np.inf))
        if shape is not None and not low.shape and 0 < _product(shape) <= FEW:
            low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        return made(elem, shape, low, high, computed=name in values.ARITHMETIC)

    def _most(self, name: str, given: list[Known], shape: Shape | None) -> int | None:
        """A reshaped or moved tensor has no more elements than before."""
        if not given or name not in ("Reshape", "Transpose", "Flatten", "Identity", "Cast", "Squeeze", "Unsqueeze"):
            return None
        return None if given[0].fixed and shape is not None else given[0].count

    def _computed(self, node: NodeProto, name: str, inputs: list[Known | None], results: list[Known]) -> list[Known]:
        """The elements themselves, where all inputs are known and the results are few."""
        few = all(result.count is not None and result.count <= COMPUTED for result in results)
        if (
            not few
            or name not in OPERATORS
            or not (name in values.RULES or name in values.MOVES or name in shapes.RULES)
        ):
            return results
        try:
            tensors = {
                tensor: as_tensor(np.array(known.value))
                for tensor, known in zip(node.input, inputs, strict=True)
                if known is not None and known.value is not None and known.value.dtype.kind in "biuf"
            }
            found = {key: constant(value.numpy()) for key, value in run_node(node, tensors, self.graph.opset).items()}
        except (UnsupportedModel, Mismatch, KeyError, TypeError, RuntimeError):
            return results
        pairs = [(found.get(tensor), result) for tensor, result in zip(node.output, results, strict=True)]
        return [
            result if value is None or (result.fixed and value.shape != result.shape) else value
            for value, result in pairs
        ]

    def _by_ends(self, node: NodeProto, name: str, inputs: list[Known | None], result: Known) -> Known:
        """Few elements that are moved about take their own bounds with them."""
        data = inputs if name == "Concat" else inputs[:1]
        controls = [] if name == "Concat" else inputs[1:]
        if (
            result.value is not None
            or name not in _BY_ENDS
            or len(node.output) != 1
            or not result.fixed
            or result.shape is None
        ):
            return result
        if _product(result.shape) > FEW or not all(known is not None and known.each for known in data):
            return result
        if not all(known is None or known.value is not None for known in controls):
            return result
        ends = []
        for end in ("low", "high"):
            tensors = {
                tensor: as_tensor(np.array(getattr(known, end) if known in data else known.value))
                for tensor, known in zip(node.input, inputs, strict=True)
                if known is not None
            }
            try:
                ends.append(run_node(node, tensors, self.graph.opset)[node.output[0]].numpy())
            except (UnsupportedModel, Mismatch, KeyError, TypeError, RuntimeError):
                return result
        if ends[0].shape != result.shape:
            return result
        return made(result.elem, result.shape, *ends, fixed=True, tainted=result.tainted)


def _most(inputs: Mapping[str, Shape]) -> int:
    """Elements that a tensor of a size that depends on values may have: in proportion to the rows."""
    rows = max([ROWS, *(shape[0] for shape in inputs.values() if shape)])
    return max([MOST_ELEMENTS * rows // ROWS, *(_MOST_TIMES * _product(shape) for shape in inputs.values())])


def _product(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def refused(node: NodeProto, tensor: str, what: str) -> UnsupportedModel:
    """The graph takes a size from values, and nothing limits it."""
    return UnsupportedModel(
        "size_depends_on_values",
        f"a size that depends on the values of a row {what} {operator_name(node)} ({tensor!r}), so that one row could "
        "ask for any amount of memory; take sizes from shapes (x.shape, torch.arange(x.shape[1])), or limit them "
        "before they are used: torch.clamp(size, max=…)",
    )
