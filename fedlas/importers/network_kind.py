"""The kind of a network, told by how it mixes positions: it decides which optimiser suits a fine-tune.

Attention is a Softmax of products of two computed tensors, whose result multiplies a computed tensor again, or an
operator that is all of this at once. A pooling that weighs positions by a linear map is none, nor are gates of
channels. Hybrids count as transformers, which are trained as those are: with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from onnx import NodeProto
from torch import nn

from fedlas.classifier import Classifier
from fedlas.importers.onnx.graph import Graph, data_dependent, integers
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.operators.table import TRANSPARENT, words
from fedlas.importers.onnx.train.classifier import GraphClassifier

NetworkKind: TypeAlias = Literal["transformer", "small_transformer", "convolutional", "other"]
#: A transformer of at most so many parameters counts as trained from scratch, which no file tells. The smallest
#: pretrained one in wide use has 4.4 million (BERT of 2 layers and a width of 128), the smallest ViT 5.7 million,
#: MiniLM 22.7 million; a network of 2 layers and a width of 64 over 4,000 words has 0.36 million.
_MAX_SMALL_PARAMETERS = 4_000_000
_ATTENTION = words(
    "Attention com.microsoft.Attention com.microsoft.MultiHeadAttention com.microsoft.GroupQueryAttention"
)
_PRODUCTS = words("MatMul Einsum com.microsoft.FusedMatMul")
#: Operators between a product and the Softmax: scales, masks, positions, caps, and maps across heads.
_BETWEEN = TRANSPARENT | _PRODUCTS | words("Add Sub Mul Div Where Clip Tanh Dropout IsNaN Max Min")
_CONVOLVING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def network_kind(classifier: Classifier) -> NetworkKind:
    """The kind of a classifier, from its graph where it has one, else from its modules."""
    if isinstance(classifier, GraphClassifier):
        graph = classifier.graph()
        attends, convolves = _attends(graph), any(_sees_space(node, graph) for node in graph.nodes)
    else:
        modules = list(classifier.modules())
        attends = any(isinstance(module, nn.MultiheadAttention) for module in modules)
        convolves = any(isinstance(m, _CONVOLVING) and math.prod(m.kernel_size) > 1 for m in modules)
    small = sum(parameter.numel() for parameter in classifier.parameters()) <= _MAX_SMALL_PARAMETERS
    if attends:
        return "small_transformer" if small else "transformer"
    return "convolutional" if convolves else "other"


def _sees_space(node: NodeProto, graph: Graph) -> bool:
    """True where a node is a convolution over more than one position; one of an unknown kernel counts."""
    if operator_name(node) not in ("Conv", "ConvTranspose", "com.microsoft.FusedConv"):
        return False
    weight = graph.constants.get(node.input[1])
    kernel = integers(node, "kernel_shape") or (None if weight is None else weight.shape[2:])
    return kernel is None or math.prod(kernel) > 1


def _attends(graph: Graph) -> bool:
    if any(operator_name(node) in _ATTENTION for node in graph.nodes):
        return True
    computed = data_dependent(graph)
    made_by = {name: [node] for name, node in graph.producers().items()}
    read_by = {name: [node for node, _ in readers] for name, readers in graph.consumers().items()}
    return any(
        _meets_product(node.input[:1], made_by, computed, up=True)
        and _meets_product(node.output[:1], read_by, computed, up=False)
        for node in graph.nodes
        if node.op_type == "Softmax"
    )


def _meets_product(
    names: Iterable[str], neighbours: Mapping[str, list[NodeProto]], computed: set[str], *, up: bool
) -> bool:
    """True where `names` lead to a product of two computed tensors, with nothing but `_BETWEEN` on the way."""
    pending, seen = list(names), set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in computed:
            continue
        seen.add(name)
        for node in neighbours.get(name, []):
            if operator_name(node) in _PRODUCTS and sum(operand in computed for operand in node.input) > 1:
                return True
            if operator_name(node) in _BETWEEN:
                pending.extend(node.input if up else node.output)
    return False
