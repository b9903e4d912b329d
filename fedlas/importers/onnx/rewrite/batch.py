"""The batch dimension: frees a graph from the number of rows that its exporter wrote into it.

Exporters write the example's batch into Reshape targets, Expand shapes and folded constants. The graph is run once with
that batch and once, node by node, with one row more: axes whose size follows the rows are seen, not inferred, and every
target that stands in the way is rewritten. A final comparison proves that rows are still computed independently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor

from fedlas.contract.profiles import TensorSpec
from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import constant_tensors, example_inputs, is_light, outputs_of, run_node
from fedlas.importers.onnx.graph import Array, Attribute, Graph, Shape, attribute, constant_derived, make_node
from fedlas.importers.onnx.operators.table import words

_BROADCASTING = words(
    "Add Sub Mul Div Where Pow Max Min And Or Equal Less Greater LessOrEqual GreaterOrEqual Sum MatMul Mod PRelu"
)
# Up to this many rows the exporter's own batch is computed for the proof, above it the repaired graph's single rows.
_AFFORDABLE = 4


class AmbiguousShape(Exception):
    """A reading of the shapes that does not lead to an independent computation of rows."""


@dataclass(frozen=True)
class AxisCandidate:
    """A candidate axis of a Reshape's result for carrying the rows."""

    axis: int
    same: bool  # the result has the input's other axes, before and after
    exact: bool  # the size is the batch itself, at a boundary of the input's axes
    last: bool
    aligned: bool  # the result has the input's axes before it


# The likeliest reading first: merged axes (rows · heads) leave room for doubt when the batch was one.
Preference = Callable[[AxisCandidate], tuple[object, ...]]
PREFERENCES: tuple[Preference, ...] = (
    lambda p: (not p.same, not p.exact, p.last, not p.aligned, p.axis),
    lambda p: (not p.same, not p.exact, p.last, p.axis),
    lambda p: (not p.exact, not p.aligned, p.axis),
    lambda p: (p.axis,),
)


def row_axis(old: Shape, new: Shape, result: Shape, *, batch: int, prefer: Preference) -> int:
    """The axis of a Reshape's result, as it is with `batch` rows, that carries the rows; raises AmbiguousShape.

    Args:
        old, new: the shapes that are reshaped with `batch` rows and with one more.
    """
    carriers = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if len(carriers) != 1 or new[carriers[0]] * batch != old[carriers[0]] * (batch + 1):
        raise AmbiguousShape(f"a Reshape of {old} has no clear batch axis")
    source = carriers[0]
    before, after = math.prod(old[:source]), math.prod(old[source + 1 :])
    stride = after * old[source] // batch  # between rows, at most
    candidates = []
    for axis, size in enumerate(result):
        inner = math.prod(result[axis + 1 :])
        if size % batch or inner > stride or inner * size < after * batch:
            continue
        outer = math.prod(result[:axis])
        same = result[:axis] == old[:source] and result[axis + 1 :] == old[source + 1 :]
        exact = size == batch and (outer == before or inner == after)
        last, aligned = axis == len(result) - 1, result[:axis] == old[:source]
        candidates.append(AxisCandidate(axis, same=same, exact=exact, last=last, aligned=aligned))
    if not candidates:
        raise AmbiguousShape(f"a Reshape from {old} to {result} mixes rows")
    return min(candidates, key=prefer).axis


class BatchRewriter:
    """Walks through the graph with one row more than the exporter's and mends each node that cannot follow."""

    def __init__(
        self, graph: Graph, inputs: Mapping[str, Tensor], batch: int, before: Mapping[str, Shape], prefer: Preference
    ) -> None:
        self.graph, self.batch, self.rows, self.prefer = graph, batch, batch + 1, prefer
        self.before = before
        self.values: dict[str, Tensor] = constant_tensors(graph) | dict(inputs)
        self.shapes: dict[str, Shape] = {name: tuple(value.shape) for name, value in self.values.items()}
        self.derived = constant_derived(graph)
        self.done: list[NodeProto] = []
        self.batch_size: str | None = None

    @torch.no_grad()
    def walk(self) -> None:
        last = {name: i for i, node in enumerate(self.graph.nodes) for name in node.input}
        last |= dict.fromkeys(self.graph.input_names, len(self.graph.nodes))
        for i, node in enumerate(self.graph.nodes):
            self._mend(node)
            self._run(node)
            for name in node.input:  # activations are large
                if last.get(name, -1) == i and name not in self.derived:
                    self.values.pop(name, None)
        self.graph.nodes = self.done

    def _run(self, node: NodeProto) -> None:
        results = run_node(node, self.values, self.graph.opset)
        for name, value in results.items():
            if name in self.before and len(value.shape) != len(self.before[name]):
                raise AmbiguousShape(f"{node.op_type} changes its rank")
        self.values.update(results)
        self.shapes.update({name: tuple(value.shape) for name, value in results.items()})
        self.done.append(node)

    def _add(self, op_type: str, inputs: list[str], **attributes: Attribute) -> str:
        output = self.graph.fresh("fedlas_batch")
        self._run(make_node(op_type, inputs, [output], **attributes))
        return output

    def _constant(self, values: list[int]) -> str:
        return self._store("fedlas_batch", np.array(values, np.int64))

    def _store(self, stem: str, value: Array) -> str:
        name = self.graph.add_constant(stem, value)
        self.values[name], self.shapes[name] = torch.from_numpy(value), value.shape
        return name

    def _mend(self, node: NodeProto) -> None:
        if not any(name not in self.derived for name in node.input):
            return
        if node.op_type == "Reshape" and len(node.input) == 2:
            self._mend_reshape(node)
        elif node.op_type == "Expand" and node.input[1] in self.derived:
            self._mend_expand(node)
        elif node.op_type == "Expand" and node.input[0] in self.derived:
            self._mend_expanded(node)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in self.derived:
            self._mend_resize(node)
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            self._mend_recurrent(node)
        elif node.op_type == "Concat" or node.op_type in _BROADCASTING:
            for position, name in enumerate(node.input):
                if name and name in self.derived:
                    self._mend_operand(node, position)

    def _mend_reshape(self, node: NodeProto) -> None:
        old, new = self.before[node.input[0]], tuple(self.values[node.input[0]].shape)
        result = self.before[node.output[0]]
        if old == new or math.prod(old) == 0:
            return
        axis = row_axis(old, new, result, batch=self.batch, prefer=self.prefer)
        wanted = [size * self.rows // self.batch if i == axis else size for i, size in enumerate(result)]
        if node.input[1] not in self.derived and self._target(node, new) == wanted:
            return  # computed from the shape of an input, and rightly so
        node.input[1] = self._constant([-1 if i == axis else size for i, size in enumerate(result)])

    def _target(self, node: NodeProto, shape: Shape) -> list[int]:
        """The sizes that a Reshape asks for, where nothing is left to be inferred."""
        sizes: list[int] = self.values[node.input[1]].tolist()
        sizes = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(sizes)]
        rest = math.prod(size for size in sizes if size != -1)
        return [math.prod(shape) // max(rest, 1) if size == -1 else size for size in sizes]

    def _mend_expand(self, node: NodeProto) -> None:
        """A 1 in an Expand's shape keeps what the input has; axes that the input lacks take the running batch."""
        shape, target = tuple(self.values[node.input[0]].shape), self.values[node.input[1]].tolist()
        old = self.before[node.input[0]]
        offset = len(target) - len(shape)
        fixed = [
            1 if i >= offset and shape[i - offset] != old[i - offset] else int(size) for i, size in enumerate(target)
        ]
        if fixed != target:
            node.input[1] = self._constant(fixed)
        elif self.batch > 1 and target and target[0] == self.batch and (offset > 0 or shape[0] == 1):
            node.input[1] = self._with_size(fixed, 0, self._running_rows())

    def _mend_expanded(self, node: NodeProto) -> None:
        """A constant for the exporter's rows that is expanded to the running ones, as PyTorch does with states."""
        shape, target = self.values[node.input[0]].shape, self.values[node.input[1]].tolist()
        for axis, size in enumerate(shape):
            if size == self.batch > 1 and target[axis - len(shape)] == self.rows and len(target) >= len(shape):
                node.input[0] = self._one_row(node.input[0], axis)

    def _mend_resize(self, node: NodeProto) -> None:
        """Sizes that are written for all axes have the exporter's rows among them."""
        old, new = self.before[node.input[0]], tuple(self.values[node.input[0]].shape)
        sizes: list[int] = self.values[node.input[3]].tolist()
        axes = [axis % len(old) for axis in attribute(node, "axes", range(len(old)))]
        for place, axis in enumerate(axes):
            if old[axis] != new[axis] and sizes[place] == old[axis]:
                node.input[3] = self._with_size(sizes, place, self._size_of(node.input[0], axis))

    def _running_rows(self) -> str:
        if self.batch_size is None:
            self.batch_size = self._size_of(self.graph.input_names[0], 0)
        return self.batch_size

    def _size_of(self, name: str, axis: int) -> str:
        return self._add("Gather", [self._add("Shape", [name]), self._constant([axis])], axis=0)

    def _with_size(self, shape: list[int], axis: int, size: str) -> str:
        parts = [self._constant(shape[:axis]), size, self._constant(shape[axis + 1 :])]
        return self._add("Concat", [p for p in parts if self.values[p].numel()], axis=0)

    def _mend_recurrent(self, node: NodeProto) -> None:
        """Lengths (rows,) and states (directions, rows, width) are for the rows of the layer's own input."""
        axis = 0 if attribute(node, "layout", 0) else 1
        old, new = self.before[node.input[0]][axis], self.values[node.input[0]].shape[axis]
        for position, place in ((4, 0), (5, axis), (6, axis)):
            name = node.input[position] if position < len(node.input) else ""
            if old == new or not name or name not in self.derived or self.values[name].shape[place] != old:
                continue
            node.input[position] = self._expanded(name, place, self._size_of(node.input[0], axis))

    def _mend_operand(self, node: NodeProto, position: int) -> None:
        """A constant operand with the exporter's batch along an axis that follows the rows."""
        name = node.input[position]
        others = [n for i, n in enumerate(node.input) if i != position and n and n not in self.derived]
        if not others:
            return
        rank = len(self.before[node.output[0]])
        joins = node.op_type == "Concat"
        skip = attribute(node, "axis", 1) % rank if joins else None
        constant = self.values[name]
        for axis in range(rank - 2 if node.op_type == "MatMul" else rank):
            place = axis - (rank - constant.ndim)
            if axis == skip or place < 0 or constant.shape[place] != self.batch:
                continue
            if self._follows_rows(others, axis, rank):
                name = self._expanded(name, place, self._running_rows()) if joins else self._one_row(name, place)
                node.input[position] = name

    def _follows_rows(self, names: list[str], axis: int, rank: int) -> bool:
        for name in names:
            new, old = tuple(self.values[name].shape), self.before.get(name)
            place = axis - (rank - len(new))
            if old is not None and place >= 0 and old[place] == self.batch and new[place] == self.rows:
                return True
        return False

    def _expanded(self, name: str, axis: int, rows: str) -> str:
        ones = [1] * self.values[name].ndim
        return self._add("Expand", [self._one_row(name, axis), self._with_size(ones, axis, rows)])

    def _one_row(self, name: str, axis: int) -> str:
        value = self.values[name]
        first = value.narrow(axis, 0, 1)
        if first.shape == value.shape:
            return name
        if not torch.equal(first.expand_as(value), value):
            raise AmbiguousShape("a constant holds different values for every row of the exporter's batch")
        if name in self.graph.constants:
            return self._store(name, first.contiguous().numpy())
        return self._add("Gather", [name, self._constant([0])], axis=axis)


def free_batch(
    graph: Graph, specs: list[TensorSpec], batch: int, lengths: Mapping[str, int], before: Mapping[str, Shape]
) -> tuple[Graph, dict[str, Shape]]:
    """A graph for any number of rows that computes what `graph` does for `batch` rows; raises UnsupportedModel.

    Args:
        before: the shapes of all tensors for `batch` rows.

    Returns:
        The graph, and the shapes of all its tensors for `batch + 1` rows.
    """
    reasons = []
    # Shapes alone are enough for almost every graph that is much to compute; else values are computed.
    rows = example_inputs(specs, batch + 1, lengths)
    ways = (False,) if is_light(graph, rows) else (True, False)
    for on_meta, preference in itertools.product(ways, PREFERENCES):
        repaired = graph.copy()
        given = {name: value.to("meta") if on_meta else value for name, value in rows.items()}
        try:
            repair = BatchRewriter(repaired, given, batch, before, preference)
            repair.walk()
            prove_rows(graph, repaired, specs, batch, lengths)
        except (AmbiguousShape, UnsupportedModel) as failure:
            reasons.append(str(failure))
        else:
            return repaired, repair.shapes
    raise UnsupportedModel(
        "fixed_batch",
        f"the exporter fixed the batch to {batch} in a way that cannot be undone ({reasons[0]}); export with a dynamic "
        "batch: torch.onnx.export(..., dynamic_shapes=...) or dynamic_axes={'input': {0: 'N'}}",
    )


def prove_rows(
    original: Graph, repaired: Graph, specs: list[TensorSpec], batch: int, lengths: Mapping[str, int]
) -> None:
    """Rows computed together must equal rows computed in the exporter's batches; raises AmbiguousShape."""
    rows = example_inputs(specs, batch + 1 if batch <= _AFFORDABLE else 2, lengths, seed=1)
    together = outputs_of(repaired, rows)
    part = {name: value[1:] for name, value in rows.items()}
    alone = outputs_of(original if batch <= _AFFORDABLE else repaired, part)
    for one, many in zip(alone, together, strict=True):
        # Sums in another order differ by what the largest value rounds to; mixed rows differ by far more.
        scale = max(1.0, float(one.abs().max())) if one.is_floating_point() and one.numel() else 1.0
        if one.shape != many[1:].shape or not torch.allclose(one, many[1:], 1e-3, 1e-4 * scale, equal_nan=True):
            raise AmbiguousShape("rows would change each other's results")
