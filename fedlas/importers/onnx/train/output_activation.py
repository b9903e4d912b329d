"""The end of a graph: the frontier of its last linear layers, and the softmax or sigmoid after its class scores.

An activation is recognised by what it computes: the nodes between a tensor and the output, run on made-up numbers, give
the softmax of that tensor, its logarithm, or a sigmoid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from onnx import NodeProto
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import outputs_of, run_node
from fedlas.importers.onnx.graph import Graph, Shapes, attribute, constant_derived, data_dependent
from fedlas.importers.onnx.operators.table import words

LINEAR = ("Gemm", "MatMul", "Conv", "Einsum")
_POOLS = words("GlobalAveragePool AveragePool ReduceMean ReduceSum ReduceMax GlobalMaxPool MaxPool ReduceLogSumExp")
# Operators between the last linear layer and the output where nothing else says that this is a classifier.
AFTER_HEAD = _POOLS | words(
    "Add Sub Mul Div Identity Cast Flatten Reshape Squeeze Unsqueeze Dropout Gather GatherND Slice Transpose Sum Mean "
    "Concat BatchNormalization"
)
# Operators whose further inputs are shapes, axes or places.
_SHAPED = _POOLS | words("Reshape Expand Slice Tile Squeeze Unsqueeze Split Pad")
LAYOUT = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
#: So many tensors before the output are tried; a softmax that JAX writes has ten nodes.
_MAX_TRIED = 32
#: Standard deviations of made-up scores: a bound on probabilities shows in confident rows. All scores are within ±48,
#: so that their exponentials, unshifted, are finite and not zero.
_DEVIATIONS = (1.0, 4.0, 16.0)


def find_frontier(graph: Graph, logits: str, shapes: Shapes) -> tuple[tuple[str, ...], bool]:
    """The inputs of the last linear layers on every path to the logits; whether only harmless operators follow them."""
    walk = _BackwardSearch(graph, shapes)
    frontier, direct = walk.back(logits, stop=set())
    # A path around a layer's input (its norm, by which a cosine head divides) ends there too.
    while frontier and (again := walk.back(logits, stop=set(frontier)))[0] != frontier:
        frontier, direct = again
    raw = all(name not in walk.producers for name in frontier)
    if raw and all(linear_input(node, walk.derived) is None for node in graph.cone([logits])):
        return (), direct
    return tuple(frontier), direct


class _BackwardSearch:
    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.shapes = shapes
        self.producers, self.derived = graph.producers(), constant_derived(graph)
        self.readers = graph.consumers()

    def back(self, logits: str, stop: set[str]) -> tuple[list[str], bool]:
        """The tensors at which walking ends, tensors in `stop` among them, and whether the way is direct."""
        ends: list[str] = []
        direct, pending, seen = True, [(logits, False)], set()
        while pending:
            name, scale = pending.pop()
            if name in seen or name in self.derived:
                continue
            seen.add(name)
            if (node := self.producers.get(name)) is None or name in stop:
                direct = direct and name in stop
                ends.append(name)
            elif (data := linear_input(node, self.derived)) is not None:
                ends.append(data)
                pending.extend((added, scale) for added in node.input[2:])  # what a Gemm adds may be computed, too
            elif node.op_type not in ("Shape", "Size"):
                # One number a row scales its scores, whatever it is computed by.
                scale = scale or (name != logits and int(np.prod(self.shapes[name][1:])) == 1)
                direct = direct and (scale or node.op_type in AFTER_HEAD or self._before_pool(node))
                pending.extend((source, scale) for source in self._data_inputs(node))
        return list(dict.fromkeys(reversed(ends))), direct

    def _data_inputs(self, node: NodeProto) -> list[str]:
        """Places say which scores are taken (those of a text's last token), not what they are."""
        picks = node.op_type in ("Gather", "GatherND") and node.input[0] not in self.derived
        return list(node.input[:1] if picks or node.op_type in _SHAPED else node.input)

    def _before_pool(self, node: NodeProto) -> bool:
        """SqueezeNet applies its last ReLU between the 1×1 convolution and the pooling."""
        readers = self.readers.get(node.output[0], [])
        return node.op_type == "Relu" and bool(readers) and all(reader.op_type in _POOLS for reader, _ in readers)


def linear_input(node: NodeProto, derived: set[str]) -> str | None:
    """The data input of a product with constants, None for any other node."""
    if node.op_type not in LINEAR or len(node.input) < 2:
        return None
    first, second = node.input[0], node.input[1]
    if second in derived and first not in derived:
        return str(first)
    return str(second) if first in derived and second not in derived and node.op_type != "Conv" else None


@dataclass(frozen=True)
class OutputActivation:
    """The tensor before a final activation.

    Attributes:
        scores: that tensor; the output itself where there is no activation.
        kind: `"logits"` or `"probabilities"`: what the output is.
        function: `"Softmax"`, `"Sigmoid"` or None.
        positive: for an output [1 − p, p] of one sigmoid, the column of p.
    """

    scores: str
    kind: str
    function: str | None = None
    positive: int = 1


#: Activations that may make an output of its scores (N, K).
_ACTIVATIONS: tuple[tuple[OutputActivation, Callable[[Tensor], Tensor]], ...] = (
    (OutputActivation("", "probabilities", "Softmax"), lambda z: z.softmax(1)),
    (OutputActivation("", "logits", "Softmax"), lambda z: z.log_softmax(1)),
    (OutputActivation("", "probabilities", "Sigmoid"), torch.sigmoid),
    (OutputActivation("", "logits", "Sigmoid"), F.logsigmoid),
    (OutputActivation("", "probabilities", "Sigmoid"), lambda z: torch.cat([(-z).sigmoid(), z.sigmoid()], 1)),
    (OutputActivation("", "probabilities", "Sigmoid", 0), lambda z: torch.cat([z.sigmoid(), (-z).sigmoid()], 1)),
)


def find_output_activation(graph: Graph, output: str, shapes: Shapes) -> OutputActivation:
    """The activation between `output` and the nearest tensor that it is one of, none after the last linear layers."""
    finder = _ActivationFinder(graph, output, shapes)
    activations = (finder.activation_of(name) for name in finder.tensors_before())
    return next(
        (activation for activation in activations if activation is not None), OutputActivation(output, "logits")
    )


class _ActivationFinder:
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
        while pending and len(seen) < _MAX_TRIED:
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
        """Activation from `scores` to the output; from the tensor before, where its maximum is taken off."""
        shape = self.shapes.get(scores, ())
        if not shape or shape[:1] != self.rows or int(np.prod(shape[1:])) not in (1, self.columns):
            return None
        generator = torch.Generator().manual_seed(0)
        drawn = [size * torch.randn(shape, generator=generator).clamp(-3, 3) for size in _DEVIATIONS]
        results = self._computed(scores, drawn)
        for activation, function in _ACTIVATIONS if results else ():
            expected = [function(values.reshape(shape[0], -1)).flatten() for values in drawn]
            if all(map(_equal, results, expected)):
                node = self.producers.get(scores)
                shifted = node is not None and node.op_type == "Sub" and node.input[1] in self.data
                before = self.activation_of(node.input[0]) if node is not None and shifted else None
                return before or replace(activation, scores=scores)
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


def _equal(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.numel() == expected.numel() and torch.allclose(tensor.flatten().float(), expected, 1e-4, 1e-6)


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
    """True where every row of a tensor (N, K) holds probabilities, seen by running the graph."""
    part = graph.copy()
    try:
        part.prune([name])
        (value,) = outputs_of(part, inputs)
    except UnsupportedModel:
        return False
    value = value.flatten(1).double() if value.ndim > 1 else value[:, None].double()
    return value.shape[1] > 1 and bool((value >= 0).all() and ((value.sum(1) - 1).abs() < 1e-3).all())
