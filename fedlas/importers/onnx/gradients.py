"""Gradient flow: the weights that a gradient can reach.

A weight behind a rounding, a comparison or a choice of indices gets no gradient, or one that is zero everywhere: in
training it would only shrink by weight decay, so it is no parameter.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators import node_has_gradient


def reachable_weights(graph: Graph, outputs: Iterable[str], weights: set[str]) -> set[str]:
    """Those of `weights` on which `outputs` depend smoothly."""
    wanted = set(outputs)
    for node in reversed(graph.nodes):
        if node_has_gradient(node) and any(name in wanted for name in _smooth_outputs(node)):
            wanted.update(node.input)
    return weights & wanted


def _smooth_outputs(node: NodeProto) -> list[str]:
    """Outputs but for those that are places."""
    return [name for name in (node.output[:1] if node.op_type == "TopK" else node.output) if name]
