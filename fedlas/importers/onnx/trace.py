"""The trace of a graph: what ONNX Runtime computes for every tensor on made-up rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.ai_onnx_ml.outputs import label_names
from fedlas.importers.onnx.graph import Graph, floats, integers
from fedlas.importers.onnx.input_specs import LENGTHS, InputSpec, example_inputs
from fedlas.importers.onnx.runtime_session import GraphSession

_ROWS = 4


class Trace:
    """Runs of a graph, first for its outputs alone, after `look_inside` for every tensor.

    Attributes:
        lengths: a size for every open axis of the inputs with which the graph runs.
        shapes: of the tensors that were seen; what is no tensor (maps, sequences) has none.

    Raises:
        UnsupportedModel: `not_runnable`; `fixed_batch` where rows cannot be computed independently of each other.
    """

    def __init__(self, graph: Graph, specs: Sequence[InputSpec], batch: int | None) -> None:
        program = GraphSession(graph, graph.outputs, typed=False)
        try:
            self.lengths, found = _first_run(program, graph, list(specs))
        except UnsupportedModel as failure:
            raise failure if batch is None else _fixed(batch, "it runs with no other number of rows") from failure
        self._rows = [value.numpy() for value in example_inputs(list(specs), _ROWS, self.lengths).values()]
        self._values = dict(zip(graph.input_names, self._rows, strict=True)) | graph.constants
        self._see(graph.outputs, found)
        self._prove(program, batch)

    def look_inside(self, graph: Graph) -> None:
        """Run the graph for all of its tensors."""
        names = [name for node in graph.nodes for name in node.output if name]
        self._see(names, GraphSession(graph, names, typed=False)(self._rows))

    def _see(self, names: Sequence[str], found: Sequence[object]) -> None:
        self._values |= {name: value for name, value in zip(names, found, strict=True) if isinstance(value, np.ndarray)}
        self.shapes = {name: tuple(value.shape) for name, value in self._values.items()}

    def _prove(self, program: GraphSession, batch: int | None) -> None:
        """Rows computed alone must equal rows computed together."""
        places = {name: i for i, name in enumerate(program.outputs) if self.is_float(name)}
        for row in range(_ROWS):
            alone = program([value[row : row + 1] for value in self._rows])
            for name, place in places.items():
                together = self._values[name]
                one = together[row : row + 1] if len(together) == _ROWS else together
                if alone[place].shape != one.shape or not np.allclose(alone[place], one, 1e-3, 1e-5, equal_nan=True):
                    raise _fixed(batch, f"rows would change each other's results in {name!r}")

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds floats of any width."""
        return name in self._values and self._values[name].dtype.kind == "f"

    def is_float32(self, name: str) -> bool:
        """Whether a tensor holds float32."""
        return name in self._values and self._values[name].dtype == np.float32

    def follows_rows(self, name: str) -> bool:
        """Whether a tensor's first axis are the rows."""
        return self.shapes.get(name, ())[:1] == (_ROWS,)

    def is_distribution(self, name: str) -> bool:
        """Whether every row holds probabilities of two classes or more."""
        if not self.is_float(name) or not self.follows_rows(name):
            return False
        value = self._values[name].reshape(_ROWS, -1).astype(np.float64)
        return value.shape[1] > 1 and bool((value > -1e-6).all() and np.abs(value.sum(1) - 1).max() < 1e-3)

    def contradicts(self, node: NodeProto, scores: str) -> bool:
        """Whether no row's highest score is that of the label which a classifier's node gives it."""
        names, labels = label_names(node), self._values.get(node.output[0])
        best = self._values[scores].reshape(_ROWS, -1).argmax(1)
        if labels is None or len(names) <= best.max():
            return False
        return all(str(label) != names[place] for label, place in zip(labels.ravel(), best, strict=True))


def _fixed(batch: int | None, why: str) -> UnsupportedModel:
    found = f"the exporter fixed the batch to {batch}" if batch else "the rows of a batch are not independent"
    return UnsupportedModel("fixed_batch", f"{found} ({why}); export the model with a free number of rows")


def _first_run(program: GraphSession, graph: Graph, specs: list[InputSpec]) -> tuple[dict[str, int], Sequence[object]]:
    """Lengths of the open axes with which the graph runs, the likeliest first, and what it computes."""
    axes = {size for spec in specs for size in spec.shape[1:] if isinstance(size, str)}
    failure: UnsupportedModel | None = None
    for length in dict.fromkeys((*_widths(graph), *LENGTHS)) if axes else (0,):
        lengths = dict.fromkeys(axes, length)
        rows = [value.numpy() for value in example_inputs(specs, _ROWS, lengths).values()]
        try:
            return lengths, program(rows)
        except UnsupportedModel as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _widths(graph: Graph) -> list[int]:
    """How many columns the nodes of `ai.onnx.ml` say that they read."""
    widths = []
    for node in graph.nodes:
        widths.append(1 + max(integers(node, "nodes_featureids") or [-1]))
        widths += [len(floats(node, name) or ()) for name in ("offset", "imputed_value_floats")]
        vectors, counts = floats(node, "support_vectors") or (), integers(node, "vectors_per_class") or ()
        widths += [len(vectors) // sum(counts)] if vectors and sum(counts) > 0 else []
    return [width for width in widths if 0 < width <= 1 << 16]
