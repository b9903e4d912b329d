"""Common subexpression elimination over several graphs of the same inputs, which become one graph.

Nodes are compared by what they compute: operator, attributes, and inputs that are already known to be equal. Where
only the heads of copies of one network differ, the body is therefore kept once.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

from onnx import NodeProto

from fedlas.importers.onnx.graph import Array, Graph

Key = tuple[object, ...]
#: Operators that draw at random are never the same computation twice.
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Dropout"}
)


def merge(graphs: Sequence[Graph], wanted: Sequence[Sequence[str]]) -> tuple[Graph, list[list[str]]]:
    """One graph for several copies of an upload, and the names under which it computes what was `wanted` of each.

    Args:
        graphs: at least one, all with the same input names; they are left as they are.
        wanted: names of tensors per graph.

    Raises:
        ValueError: the inputs differ.
    """
    if any(graph.input_names != graphs[0].input_names for graph in graphs):
        raise ValueError(f"graphs must have the same inputs, got {[graph.input_names for graph in graphs]}")
    merged = graphs[0].copy()
    merged.nodes, merged.constants = [], {}
    merged.outputs = []
    merger = _Merger(merged)
    names = [
        [mapped[name] for name in outputs] for mapped, outputs in zip(map(merger.add, graphs), wanted, strict=True)
    ]
    return merged, names


class _Merger:
    """Adds graphs one after the other, each tensor under one name."""

    def __init__(self, merged: Graph) -> None:
        self.merged = merged
        self.known: dict[Key, list[str]] = {}
        self.taken: set[str] = set(merged.input_names)

    def add(self, graph: Graph) -> dict[str, str]:
        """Add what is new in `graph`; returns its tensors' names in the merged graph."""
        mapped = {"": "", **{name: name for name in graph.input_names}}
        for name, value in graph.constants.items():
            mapped[name] = self._constant(name, value)
        for node in graph.nodes:
            inputs = [mapped[name] for name in node.input]
            for name, output in zip(node.output, self._node(node, inputs), strict=True):
                mapped[name] = output
        return mapped

    def _constant(self, name: str, value: Array) -> str:
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        key = ("constant", str(value.dtype), value.shape, digest)
        if key not in self.known:
            self.known[key] = [self._free(name)]
            self.merged.constants[self.known[key][0]] = value
        return self.known[key][0]

    def _node(self, node: NodeProto, inputs: list[str]) -> list[str]:
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        used = tuple(bool(name) for name in node.output)
        key: Key = (node.domain, node.op_type, *attributes, "of", *inputs, used)
        if node.op_type in _RANDOM:
            key = (*key, len(self.known))
        if key not in self.known:
            added = copy.deepcopy(node)
            added.name = ""
            added.input[:] = inputs
            added.output[:] = [self._free(name) if name else "" for name in node.output]
            self.merged.nodes.append(added)
            self.known[key] = list(added.output)
        return self.known[key]

    def _free(self, name: str) -> str:
        """`name` itself for the first graph, a numbered one where it is taken."""
        free, number = name, 1
        while free in self.taken:
            number += 1
            free = f"{name}__{number}"
        self.taken.add(free)
        return free
