"""Weight untying: every layer gets its own copy of the constants that it reads.

Exporters merge initialisers that are equal (two fresh LayerNorms), and merged layers would stay tied in training. The
file cannot tell a merged constant from one that layers share on purpose, unless the exporter recorded which module each
node comes from: a module that reads one trained constant again (the block that ALBERT runs twelve times) keeps sharing,
all others are untied. Constants of a single value do not show that a module runs again: fresh parameters are equal too.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto

from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.weight_roles import TRANSPARENT, data_dependent

Reader = tuple[NodeProto, int]
Layer = tuple[object, ...]
_SCOPES = "pkg.torch.onnx.name_scopes"


def modules_of(model: ModelProto) -> dict[str, str]:
    """The path of the module that computes a tensor, where the exporter recorded it."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "")
        path = _module_path(scopes)
        if path:
            found.update(dict.fromkeys(node.output, path))
    return found


def _module_path(scopes: str) -> str:
    """`['', 'layers.0', 'layers.0.linear', 'addmm']` is the module `layers.0.linear`."""
    try:
        path = ast.literal_eval(scopes) if len(scopes) < 10_000 else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return str(path[-2]) if isinstance(path, list) and len(path) > 1 else ""


def untie_weights(graph: Graph, modules: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give every layer that reads a float constant its own copy, also behind operators that only rearrange it.

    Returns the constant that each copy was made of.

    Nodes that compute a weight from constants (its norm, its standardised form) keep sharing what they read.

    Args:
        modules: the module that computes a tensor, where known; readers in one module keep sharing.
    """
    return _WeightUntying(graph, modules or {}).untie()


class _WeightUntying:
    def __init__(self, graph: Graph, modules: Mapping[str, str]) -> None:
        self.graph, self.modules = graph, modules
        self.consumers = graph.consumers()
        self.shares: set[int] = set()  # nodes that compute a constant from constants
        self.layers: dict[int, Layer] = {}  # for which layer a node rearranges
        self.clones: dict[int, list[NodeProto]] = {}  # what comes before a node
        self._join_copies()
        self.run_again = self._modules_that_run_again()

    def _join_copies(self) -> None:
        """Exporters that fold what a module does with its weight leave one copy for each of the module's runs."""
        first: dict[object, str] = {}
        candidates: dict[object, list[Reader]] = {}
        for name, value in self.graph.constants.items():
            for node, position in self.consumers.get(name, []) if value.dtype == np.float32 and value.ndim else ():
                if module := self._module(node):
                    candidates.setdefault((module, node.op_type, position, value.shape), []).append((node, position))
        for key, readers in candidates.items():
            for node, position in readers if len(readers) > 1 else ():
                name = node.input[position]
                digest = hashlib.sha256(np.ascontiguousarray(self.graph.constants[name]).tobytes()).digest()
                node.input[position] = first.setdefault((key, digest), name)
        self.graph.prune(self.graph.outputs)
        self.consumers = self.graph.consumers()

    def _modules_that_run_again(self) -> set[str]:
        found: set[str] = set()
        for name, value in self.graph.constants.items():
            if value.dtype == np.float32 and value.size > 1 and value.min() < value.max():
                keys = Counter((self._module(node), node.op_type, at) for node, at in self.consumers.get(name, []))
                found.update(module for (module, _, _), count in keys.items() if count > 1 and module)
        return found

    def _module(self, node: NodeProto) -> str:
        return next((self.modules[name] for name in node.output if name in self.modules), "")

    def untie(self) -> dict[str, str]:
        copies = {}
        movers = self._movers()
        for node in reversed(movers):
            self._untie_mover(node)
        self.graph.nodes = [each for node in self.graph.nodes for each in self._with_clones(node)]
        for name in [n for n, v in self.graph.constants.items() if v.dtype == np.float32 and v.ndim]:
            groups, shared = self._groups(name)
            for _, readers in groups if shared else groups[1:]:
                copied = self.graph.add_constant(name, self.graph.constants[name])
                copies[copied] = name
                for reader, position in readers:
                    reader.input[position] = copied
        return copies

    def _movers(self) -> list[NodeProto]:
        """The nodes that only rearrange a constant; what else computes with constants alone is noted in `shares`."""
        rearranged = {name for name, value in self.graph.constants.items() if value.dtype == np.float32 and value.ndim}
        data = data_dependent(self.graph)
        movers = []
        for node in self.graph.nodes:
            if any(name in data for name in node.input):
                continue
            if node.op_type in TRANSPARENT and len(node.output) == 1 and node.input[0] in rearranged:
                rearranged.update(node.output)
                movers.append(node)
            else:
                self.shares.add(id(node))
        return movers

    def _untie_mover(self, node: NodeProto) -> None:
        """Clone a rearranging node, so that each serves one layer."""
        groups, shared = self._groups(node.output[0])
        for layer, readers in groups if shared else groups[1:]:
            clone = copy.deepcopy(node)
            clone.name = ""
            clone.output[0] = self.graph.fresh(node.output[0])  # of no module: it belongs to its reader
            for reader, position in readers:
                reader.input[position] = clone.output[0]
            for position, name in enumerate(clone.input):
                self.consumers.setdefault(name, []).append((clone, position))
            self.clones.setdefault(id(node), []).append(clone)
            self.layers[id(clone)] = layer
        if shared:
            self.shares.add(id(node))
        elif groups:
            self.layers[id(node)] = groups[0][0]

    def _groups(self, name: str) -> tuple[list[tuple[Layer, list[Reader]]], bool]:
        """The readers of a tensor, those together that belong to one layer; whether a computation reads it too."""
        groups: dict[tuple[Layer, int], list[Reader]] = {}
        seen: Counter[object] = Counter()
        readers = self.consumers.get(name, [])
        for node, position in readers:
            if id(node) in self.shares:
                continue
            layer = self.layers.get(id(node)) or self._layer(node, position)
            number = 0
            if id(node) in self.layers and layer[0] == "node":
                # A layer reads one constant in parts (the gates of an LSTM), but not the same part twice.
                part = (layer, self._signature(node, position))
                number, seen[part] = seen[part], seen[part] + 1
            groups.setdefault((layer, number), []).append((node, position))
        grouped = [(layer, found) for (layer, _), found in groups.items()]
        return grouped, len(readers) > sum(len(found) for _, found in grouped)

    def _layer(self, node: NodeProto, position: int) -> Layer:
        module = self._module(node)
        if module in self.run_again:
            return "module", module, node.op_type, position
        return "node", id(node), node.op_type, position

    def _signature(self, node: NodeProto, position: int) -> Layer:
        """What tells the parts of a constant apart that rearranging nodes take; joining takes all of it."""
        if node.op_type == "Concat":
            return (node.op_type,)
        values = (self.graph.constants.get(name) for i, name in enumerate(node.input) if i != position)
        attributes = (item.SerializeToString(deterministic=True) for item in node.attribute)
        return (node.op_type, position, *(None if v is None else v.tobytes() for v in values), *attributes)

    def _with_clones(self, node: NodeProto) -> Iterator[NodeProto]:
        yield from self.clones.get(id(node), [])
        yield node
