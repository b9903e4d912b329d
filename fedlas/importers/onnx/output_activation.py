"""The output activation of a graph: the softmax or sigmoid after its class scores, however it is written.

It is recognised by what it computes: the nodes between a tensor and the output, run on made-up numbers, give the
softmax of that tensor, its logarithm, or a sigmoid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import outputs_of, run_node
from fedlas.importers.onnx.frontier import linear_input
from fedlas.importers.onnx.graph import Graph, Shapes, attribute
from fedlas.importers.onnx.weight_roles import constant_derived, data_dependent

LAYOUT = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
#: So many tensors before the output are tried; a softmax that JAX writes has ten nodes.
_MOST_TRIED = 32
#: Standard deviations of made-up scores: a bound on probabilities shows in confident rows. All scores are within ±48,
#: so that their exponentials, unshifted, are finite and not zero.
_DEVIATIONS = (1.0, 4.0, 16.0)


@dataclass(frozen=True)
class OutputActivation:
    """The tensor before a final activation.

    Attributes:
        scores: that tensor; the output itself where there is no activation.
        kind: `"logits"` or `"probabilities"`: what the output is.
        function: `"Softmax"`, `"Sigmoid"` or None.
        pair: for an output [1 − p, p] of one sigmoid, the column of p.
    """

    scores: str
    kind: str
    function: str | None = None
    pair: int | None = None


#: What an output may be of its scores (N, K).
_ACTIVATIONS: tuple[tuple[OutputActivation, Callable[[Tensor], Tensor]], ...] = (
    (OutputActivation("", "probabilities", "Softmax"), lambda z: z.softmax(1)),
    (OutputActivation("", "logits", "Softmax"), lambda z: z.log_softmax(1)),
    (OutputActivation("", "probabilities", "Sigmoid"), torch.sigmoid),
    (OutputActivation("", "logits", "Sigmoid"), F.logsigmoid),
    (OutputActivation("", "probabilities", "Sigmoid", pair=1), lambda z: torch.cat([(-z).sigmoid(), z.sigmoid()], 1)),
    (OutputActivation("", "probabilities", "Sigmoid", pair=0), lambda z: torch.cat([z.sigmoid(), (-z).sigmoid()], 1)),
)


def find_output_activation(graph: Graph, output: str, shapes: Shapes) -> OutputActivation:
    """The activation between `output` and the nearest tensor that it is one of, none after the last linear layers."""
    finder = _ActivationFinder(graph, output, shapes)
    found = (finder.activation_of(name) for name in finder.tensors_before())
    return next((activation for activation in found if activation is not None), OutputActivation(output, "logits"))


class _ActivationFinder:
    """Tries tensors before one output."""

    def __init__(self, graph: Graph, output: str, shapes: Shapes) -> None:
        self.graph, self.output, self.shapes = graph, output, shapes
        self.producers, self.data = graph.producers(), data_dependent(graph)
        self.rows, self.columns = shapes[output][:1], int(np.prod(shapes[output][1:]))
        self.sizes: dict[str, Tensor] = {}  # what is computed from shapes alone
        for node in graph.nodes:
            if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
                asked = torch.empty(shapes[node.input[0]], device="meta")
                self.sizes |= run_node(node, {node.input[0]: asked}, graph.opset)

    def tensors_before(self) -> Iterator[str]:
        """The tensors that may be its scores, the nearest first."""
        derived, pending, seen = constant_derived(self.graph), deque([self.output]), set[str]()
        while pending and len(seen) < _MOST_TRIED:
            name = pending.popleft()
            node = self.producers.get(name)
            if name in seen or node is None or name in self.sizes:
                continue
            seen.add(name)
            if linear_input(node, derived) is None:
                sources = [source for source in node.input if source in self.data]
                pending.extend(sources)
                yield from sources

    def activation_of(self, scores: str) -> OutputActivation | None:
        """What the output is of a tensor alone; where that is taken off its maximum, of the tensor before."""
        shape = self.shapes.get(scores, ())
        if not shape or shape[:1] != self.rows or int(np.prod(shape[1:])) not in (1, self.columns):
            return None
        generator = torch.Generator().manual_seed(0)
        drawn = [size * torch.randn(shape, generator=generator).clamp(-3, 3) for size in _DEVIATIONS]
        results = self._computed(scores, drawn)
        for activation, function in _ACTIVATIONS if results else ():
            expected = [function(values.reshape(shape[0], -1)).flatten() for values in drawn]
            if all(map(_equal, results, expected)):
                return self._unshifted(scores) or replace(activation, scores=scores)
        return None

    def _computed(self, scores: str, drawn: Sequence[Tensor]) -> list[Tensor]:
        """The output for values of the scores; nothing where it depends on more than them."""
        part = replace(self.graph, nodes=self.graph.cone([self.output], stop=[scores, *self.sizes]))
        part.prune([self.output])
        if any(name in self.graph.input_names and name != scores for node in part.nodes for name in node.input):
            return []
        try:
            return [outputs_of(part, {**self.sizes, scores: values})[0] for values in drawn]
        except UnsupportedModel:
            return []

    def _unshifted(self, scores: str) -> OutputActivation | None:
        node = self.producers.get(scores)
        shifted = node is not None and node.op_type == "Sub" and node.input[1] in self.data
        return self.activation_of(node.input[0]) if node is not None and shifted else None


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.numel() == expected.numel() and torch.allclose(found.flatten().float(), expected, 1e-4, 1e-6)


def before_layout(graph: Graph, name: str, shapes: Shapes) -> str:
    """The tensor before changes of layout that keep every row's scores in their order."""
    producers, rows = graph.producers(), shapes[graph.input_names[0]][:1]
    while (node := producers.get(name)) is not None and node.op_type in LAYOUT:
        before, after = shapes[node.input[0]], shapes[name]
        mixes = node.op_type == "Transpose" and sum(size > 1 for size in before[1:]) > 1
        if mixes or before[:1] != rows or after[:1] != rows:
            break
        name = node.input[0]
    return name


def labelled_scores(graph: Graph, output: str, shapes: Shapes) -> str | None:
    """The scores whose ArgMax an output is; None for any other output."""
    producers, name = graph.producers(), output
    while (node := producers.get(name)) is not None and node.op_type in ("ArgMax", "Cast", *LAYOUT):
        name = node.input[0]
        if node.op_type == "ArgMax":
            rank = len(shapes[name])
            return name if rank > 1 and attribute(node, "axis", 0) % rank > 0 else None
    return None


def is_distribution(graph: Graph, name: str, inputs: Mapping[str, Tensor]) -> bool:
    """Whether every row of a tensor (N, K) holds probabilities, seen by running the graph."""
    part = graph.copy()
    try:
        part.prune([name])
        (value,) = outputs_of(part, inputs)
    except UnsupportedModel:
        return False
    value = value.flatten(1).double() if value.ndim > 1 else value[:, None].double()
    sums = value.sum(1)
    return value.shape[1] > 1 and bool((value >= 0).all() and ((sums - 1).abs() < 1e-3).all())
