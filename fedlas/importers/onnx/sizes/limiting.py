"""Limits of sizes that depend on values: `Min(size, limit)` before the operator, in the graph that is served.

The limit is the number of elements of one row of the largest input, and 1,024 at least: what a row can have as many of
as it has elements (tokens, positions, a mask of lengths) is the same with the limit as without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from fedlas.importers.onnx.graph import Graph, Shape
from fedlas.importers.onnx.input_specs import InputSpec
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.sizes.abstract_tensor import AbstractTensor
from fedlas.importers.onnx.sizes.interpreter import ROWS, Interpretation
from fedlas.notice import Notice, adjustment

_LEAST_LIMIT = 1024
#: Smaller limits would change what ordinary rows give.
_SMALLEST = 16
#: Scales enlarge what is there already.
_SCALE = 16
_TYPES = {TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE}


def limit_sizes(graph: Graph, inputs: Sequence[InputSpec], lengths: Mapping[str, int]) -> list[Notice]:
    """Change `graph` so that no size depends on values without a limit; returns a notice of each limit.

    Raises:
        UnsupportedModel: `size_depends_on_values` where no limit can be written.
    """
    writer = _LimitWriter(graph)
    run = Interpretation(graph, row_shapes(inputs, lengths, ROWS), constants={}, limiter=writer)
    graph.nodes = run.nodes
    return writer.notes


def row_shapes(inputs: Sequence[InputSpec], lengths: Mapping[str, int], rows: int) -> dict[str, Shape]:
    """The sizes of the inputs for so many rows."""
    return {i.name: (rows, *(n if isinstance(n, int) else lengths[n] for n in i.shape[1:])) for i in inputs}


class _LimitWriter:
    """The limiter of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.notes: list[Notice] = []

    def __call__(self, run: Interpretation, node: NodeProto, position: int) -> None:
        name, tensor = node.input[position], run.tensors[node.input[position]]
        if not tensor.per_element or tensor.elem not in _TYPES or self.graph.opset < 8:
            return
        limit, grows = self._limit(run, node, position)
        if limit is None:
            return
        node.input[position] = self._limited(run, name, tensor, limit, grows)
        shown = f"the number of elements of a row, and {limit:,} at least" if grows else f"{limit:g}"
        message = (
            f"{operator_name(node)} takes a size from the values of a row ({name!r}): it is limited to {shown}; "
            "rows that ask for more are computed with the limit."
        )
        evidence = {"operator": operator_name(node), "tensor": name, "limit": limit}
        self.notes.append(adjustment("size_limited", message, **evidence))

    def _limit(self, run: Interpretation, node: NodeProto, position: int) -> tuple[float | None, bool]:
        """The largest limit that makes no tensor too large, and whether it may grow with the rows' lengths."""
        tensor = run.tensors[node.input[position]]
        shapes = [run.tensors[name].shape or () for name in self.graph.input_names]
        elements = max((math.prod(shape[1:]) for shape in shapes), default=1)
        scale = node.op_type in ("Resize", "Upsample") and tensor.elem in (TensorProto.FLOAT, TensorProto.DOUBLE)
        first = float(_SCALE if scale else max(_LEAST_LIMIT, elements))
        start = 0.0
        if node.op_type == "Range":
            if position != 1:
                return None, False
            begin, step = (run.tensors.get(node.input[i]) for i in (0, 2))
            if begin is None or step is None or begin.varies or step.varies or step.bounds[0] <= 0:
                return None, False
            start, first = begin.bounds[1], first * step.bounds[1]
        limit = first
        while limit >= (2 if scale else _SMALLEST):
            if self._fits(run, node, position, tensor, start + limit):
                grows = limit == max(_LEAST_LIMIT, elements) and start == 0 and not scale and self._has_free_sizes()
                return (_LEAST_LIMIT if grows else start + limit), grows
            limit //= 2
        return None, False

    def _has_free_sizes(self) -> bool:
        dims = [dim for info in self.graph.inputs for dim in info.type.tensor_type.shape.dim[1:]]
        return any(not dim.HasField("dim_value") for dim in dims)

    def _fits(self, run: Interpretation, node: NodeProto, position: int, tensor: AbstractTensor, limit: float) -> bool:
        inputs = run.inputs_of(node)
        limited = np.where(tensor.low != tensor.high, np.minimum(tensor.high, limit), tensor.high)
        inputs[position] = replace(tensor, high=limited, low=np.minimum(tensor.low, limited))
        return run.fits(node, inputs)

    def _limited(self, run: Interpretation, name: str, tensor: AbstractTensor, limit: float, grows: bool) -> str:
        """The size, and the limit where it is larger; elements that do not depend on values have none.

        As floats of 64 bits, which hold every size; of integers ONNX Runtime takes the wrong one (see `intervals`).
        """
        whole = tensor.elem in (TensorProto.INT64, TensorProto.INT32)
        kind = int(TensorProto.DOUBLE) if whole else tensor.elem
        limits = np.asarray(np.where(tensor.low != tensor.high, limit, np.inf), helper.tensor_dtype_to_np_dtype(kind))
        bound = run.add_constant("fedlas_limit", limits)
        if grows:
            bound = run.add("Max", [bound, *self._row_elements(run, kind)])
        if not whole:
            return run.add("Min", [name, bound])
        wide = run.add("Cast", [name], to=kind)
        return run.add("Cast", [run.add("Min", [wide, bound])], to=tensor.elem)

    def _row_elements(self, run: Interpretation, kind: int) -> Iterator[str]:
        """The number of elements of a row of each input."""
        for info in self.graph.inputs:
            rank = len(info.type.tensor_type.shape.dim)
            if rank > 1:
                axes = run.add_constant("fedlas_axes", np.arange(1, rank))
                sizes = run.add("Gather", [run.add("Shape", [info.name]), axes], axis=0)
                yield run.add("Cast", [run.add("ReduceProd", [sizes], keepdims=0)], to=kind)
