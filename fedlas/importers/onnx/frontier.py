"""The frontier: the inputs of the last linear layers before the class scores, which are a classifier's features."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from fedlas.importers.onnx.graph import Graph, Shapes
from fedlas.importers.onnx.operators.table import words
from fedlas.importers.onnx.weight_roles import constant_derived

LINEAR = ("Gemm", "MatMul", "Conv", "Einsum")
_POOLS = words("GlobalAveragePool AveragePool ReduceMean ReduceSum ReduceMax GlobalMaxPool MaxPool ReduceLogSumExp")
# What may stand between the last linear layer and the output where nothing else says that this is a classifier.
AFTER_HEAD = _POOLS | words(
    "Add Sub Mul Div Identity Cast Flatten Reshape Squeeze Unsqueeze Dropout Gather GatherND Slice Transpose Sum Mean "
    "Concat BatchNormalization"
)
# Operators whose further inputs are shapes, axes or places.
_SHAPED = _POOLS | words("Reshape Expand Slice Tile Squeeze Unsqueeze Split Pad")


def find_frontier(graph: Graph, logits: str, shapes: Shapes) -> tuple[tuple[str, ...], bool]:
    """The inputs of the last linear layers on every path to the logits; whether only harmless operators follow them."""
    walk = _BackwardSearch(graph, shapes)
    found, direct = walk.back(logits, stop=set())
    # A path around a layer's input (its norm, by which a cosine head divides) ends there too.
    while found and (again := walk.back(logits, stop=set(found)))[0] != found:
        found, direct = again
    if all(name not in walk.producers for name in found) and not walk.has_linear(logits):
        return (), direct
    return tuple(found), direct


class _BackwardSearch:
    """Walks backwards from logits to linear layers."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph, self.shapes = graph, shapes
        self.producers, self.derived = graph.producers(), constant_derived(graph)
        self.readers = graph.consumers()

    def back(self, logits: str, stop: set[str]) -> tuple[list[str], bool]:
        """The tensors at which walking ends, tensors in `stop` among them, and whether the way is direct."""
        found: list[str] = []
        direct, pending, seen = True, [(logits, False)], set()
        while pending:
            name, scale = pending.pop()
            if name in seen or name in self.derived:
                continue
            seen.add(name)
            node = self.producers.get(name)
            if node is None or name in stop:
                direct = direct and name in stop
                found.append(name)
            elif (data := linear_input(node, self.derived)) is not None:
                found.append(data)
            elif node.op_type not in ("Shape", "Size"):
                # One number a row scales its scores, whatever it is computed by.
                scale = scale or (name != logits and int(np.prod(self.shapes[name][1:])) == 1)
                direct = direct and (scale or node.op_type in AFTER_HEAD or self._before_pool(node))
                pending.extend((source, scale) for source in self._data_inputs(node))
        return list(dict.fromkeys(reversed(found))), direct

    def has_linear(self, logits: str) -> bool:
        return any(linear_input(node, self.derived) is not None for node in self.graph.cone([logits]))

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
