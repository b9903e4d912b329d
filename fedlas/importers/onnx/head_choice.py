"""The choice of a head among the outputs of a graph."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.heads import Head, find_head
from fedlas.importers.onnx.output_activation import labelled_scores

Shapes = Mapping[str, tuple[int, ...]]


def choose_head(
    graph: Graph, shapes: Shapes, output: str | None, features: str | None, examples: Mapping[str, Tensor]
) -> Head:
    """The one head of the graph's outputs, or the last of several that lead to each other.

    Raises:
        UnsupportedModel: what stands in the way of the first output, or `several_outputs`.
    """
    heads: dict[str, Head] = {}
    failures: list[UnsupportedModel] = []
    for name in graph.outputs:
        try:
            head = find_head(graph, name, shapes, features, examples=examples)
        except UnsupportedModel as failure:
            failures.append(failure)
        else:
            heads.setdefault(head.logits, head)
    if not heads:  # labels alone: the scores that they were picked from lie before them
        for scores in (labelled_scores(graph, name, shapes) for name in graph.outputs):
            if scores is not None:
                return find_head(graph, scores, shapes, features, examples=examples)
        raise failures[0]
    last = [head for head in heads.values() if all(_leads_to(graph, other, head) for other in heads.values())]
    if len(last) != 1:
        names = [head.output for head in heads.values()]
        raise UnsupportedModel(
            "several_outputs", f"several outputs look like class scores: {names}; pass output= to choose one"
        )
    return last[0]


def _leads_to(graph: Graph, other: Head, head: Head) -> bool:
    """Whether `other` is a step on the way to `head`, as scores before a further layer's are, and embeddings."""
    if other is head:
        return True
    if other.kind == "probabilities":
        return False
    if other.frontier == head.frontier and head.kind == "probabilities":
        return True
    nodes = graph.cone([head.logits], stop=[other.logits])
    return all(name not in graph.input_names for node in nodes for name in node.input) and bool(nodes)
