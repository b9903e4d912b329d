"""The cost of rows of a graph, counted from sizes and not timed: bytes, and how they grow with rows and lengths."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from fedlas.contract.profiles import ServingCost, TensorSpec
from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.cost.interpreter import Interpretation, row_shapes
from fedlas.importers.onnx.cost.shape_rules import AbstractTensor, ShapeMismatch
from fedlas.importers.onnx.evaluator import example_inputs
from fedlas.importers.onnx.graph import Graph, Shape, attribute
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.runtime import GraphSession

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
            found = session([value.numpy() for value in example_inputs(list(inputs), rows, lengths).values()])
            for name, value in zip(unknown, found, strict=True):
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
    found = {size: _power(run, lengths, {size}) for size in free}
    if len(free) > 1 and None in found.values():
        together = _power(run, lengths, free)
        found = {size: together if power is None else power for size, power in found.items()}
    return {place: power for place, size in places if (power := found[str(size)]) is not None}


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
