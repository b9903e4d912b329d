"""Weights: which constants of a graph are weights, by their role in it and not by their names, each layer with its own.

Exporters merge initialisers that are equal (two fresh LayerNorms), and merged layers would stay tied in training. The
file cannot tell a merged constant from one that layers share on purpose, unless the exporter recorded which module each
node comes from: a module that reads one trained constant again (the block that ALBERT runs twelve times) keeps sharing,
all others are untied. Constants of a single value do not show that a module runs again: fresh parameters are equal too.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto

from fedlas.importers.onnx.graph import Array, Graph, Shapes, data_dependent
from fedlas.importers.onnx.operators.table import TRANSPARENT, WEIGHT_INPUTS, operator_name

#: How the constants begin that are added to a graph here or by an earlier export; they are never weights.
OURS = "fedlas_"
# Operators that combine a weight (bias, layer scale, position embedding, class token) with what was learned before.
_COMBINING = ("Add", "Mul", "Sub", "Sum", "Concat")
_SCOPES = "pkg.torch.onnx.name_scopes"


class WeightFinder:
    """One walk along the graph: what was learned so far decides what the next constant is."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph, self.shapes = graph, shapes
        self.data = data_dependent(graph)
        self.producers = graph.producers()
        self.trainable = {
            n for n, v in graph.constants.items() if v.dtype == np.float32 and v.size and not n.startswith(OURS)
        }
        self.rotary = _rotary_tables({n: graph.constants[n] for n in self.trainable}) | _rotary_caches(graph)
        self.weights: set[str] = set()
        self.learned: set[str] = set()
        # Constant tensors that were followed to the constants they are computed from, and whether one was a weight.
        self.followed: dict[tuple[str, bool], bool] = {}

    def find(self) -> set[str]:
        """The names of the constants that are weights.

        Weights of layers count always, also where they are computed from constants (a weight's norm, a low-rank
        update): then those constants are the weights. Operands of Add, Mul, Sub, Sum and Concat count where the other
        operand was learned, or where they widen a raw input (a tokeniser of numbers does, a scaler of inputs does not).
        Single numbers, masks, sinusoidal and rotary positions and values of 1e4 and more are constants.
        """
        for node in self.graph.nodes:
            if not any(name in self.data for name in node.input):
                continue
            taken = [self._take(node, position) for position in range(len(node.input))]
            if any(taken) or any(name in self.learned for name in node.input):
                self.learned.update(node.output)
        return self.weights

    def _take(self, node: NodeProto, position: int) -> bool:
        """Record the weights that a node reads at one position; returns whether there are any."""
        if (name := node.input[position]) in self.data or not name:
            return False
        if self._is_strong(node, position):
            return self._follow(name, computed=True)
        if self._is_operand(node, position):
            if name in self.trainable:
                return self._record(name, self._could_be_weight(name, single=self._follows_product(node)))
            return self._follow(name, computed=False)
        return False

    def _record(self, name: str, is_weight: bool) -> bool:
        if is_weight:
            self.weights.add(name)
        return is_weight

    def _follow(self, root: str, *, computed: bool) -> bool:
        """Record the constants that `root` is computed from.

        Args:
            computed: by any operators (the weight of a layer), or only by those that rearrange (an operand, where a
                computed tensor would be a mask or a position).
        """
        if root in self.trainable:
            return self._record(root, computed or self._could_be_weight(root))
        recorded, pending, seen = False, [root], set()
        while pending:
            name = pending.pop()
            if name in self.trainable:
                value = self.graph.constants[name]  # a single number or a mask is no weight that another is made of
                leaf = (value.size > 1 and not _is_mask(value)) if computed else self._could_be_weight(name)
                recorded = self._record(name, leaf) or recorded
            elif (name, computed) in self.followed:
                recorded = recorded or self.followed[name, computed]
            elif name not in seen and (node := self.producers.get(name)) is not None:
                seen.add(name)
                # A single number is a norm: what only it is computed from (spectral_norm's vectors) is no weight.
                norm = int(np.prod(self.shapes.get(name, (2,)))) == 1
                if (computed and not norm) or node.op_type in TRANSPARENT:
                    pending.extend(name for name in node.input if name not in self.data)
        self.followed.update(dict.fromkeys(((name, computed) for name in seen), recorded))
        return recorded

    def _is_strong(self, node: NodeProto, position: int) -> bool:
        if node.op_type == "Gather":  # an embedding, looked up by an input
            table = self.graph.constants.get(node.input[0])
            looked_up = position == 0 and node.input[1] in self.data
            known = table is not None and (table.ndim != 2 or node.input[0] in self.rotary or not _varied(table))
            return looked_up and not known
        if node.op_type == "InstanceNormalization" and self._is_group_norm(node):
            return False
        return position in WEIGHT_INPUTS.get(operator_name(node), ())

    def _is_group_norm(self, node: NodeProto) -> bool:
        """Exporters write a GroupNorm as an InstanceNormalization of ones and zeros, its weights come after it."""
        scale, bias = (self.graph.constants.get(name) for name in node.input[1:3])
        producer = self.producers.get(node.input[0])
        plain = scale is not None and bias is not None and bool(np.all(scale == 1)) and not np.any(bias)
        return plain and producer is not None and producer.op_type == "Reshape"

    def _is_operand(self, node: NodeProto, position: int) -> bool:
        if node.op_type not in _COMBINING:
            return False
        others = [name for i, name in enumerate(node.input) if i != position]
        if any(name in self.learned for name in others):
            return True
        raw = next((self.shapes.get(name) for name in others if name in self.data), ())
        return node.op_type == "Mul" and self.shapes.get(node.output[0], ()) != raw

    def _follows_product(self, node: NodeProto) -> bool:
        """A bias of one element is a weight where it follows a product."""
        products = (self.producers.get(name) for name in node.input)
        return node.op_type == "Add" and any(other is not None and other.op_type == "MatMul" for other in products)

    def _could_be_weight(self, name: str, *, single: bool = False) -> bool:
        value = self.graph.constants[name]
        if name in self.rotary or (value.size < 2 and not (single and value.ndim > 0)):
            return False
        return bool(np.all(np.isfinite(value)) and np.abs(value).max() < 1e4) and _varied(value)


def _varied(value: Array) -> bool:
    """False for masks and for sinusoidal tables (sin² + cos² = 1 in every row)."""
    if _is_mask(value):
        return False
    width = value.shape[-1]
    if value.ndim < 2 or width < 4 or width % 2:
        return True
    return not np.allclose(np.square(value).sum(-1), width / 2, rtol=1e-3)


def _is_mask(value: Array) -> bool:
    """Two values, one of them zero."""
    if value.size < 16 or len(distinct := np.unique(value[..., :64])) != 2 or 0 not in distinct:
        return False
    return len(np.unique(value)) == 2


def _rotary_caches(graph: Graph) -> set[str]:
    """Constants that RotaryEmbedding reads as cosines and sines, also picked by position before; some are scaled."""
    producers, caches = graph.producers(), set[str]()
    pending = [name for node in graph.nodes if operator_name(node) == "RotaryEmbedding" for name in node.input[1:3]]
    while pending:
        name = pending.pop()
        if name in graph.constants:
            caches.add(name)
        elif (node := producers.get(name)) is not None and node.op_type in TRANSPARENT:
            pending.append(node.input[0])
    return caches


def _rotary_tables(values: Mapping[str, Array]) -> set[str]:
    """Pairs of constants with sin² + cos² = 1 in every element: rotary positions, in two tables."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, value in values.items():
        if value.ndim >= 2 and value.size >= 4 and np.abs(value.flat[:64]).max() <= 1.0001:
            by_shape.setdefault(value.shape, []).append(name)
    tables: set[str] = set()
    for names in by_shape.values():
        # The first elements tell pairs apart from chance; comparing all with all is for few tables of one shape only.
        heads = {name: np.square(values[name].flat[:64]) for name in names} if len(names) <= 64 else {}
        for one, other in itertools.combinations(heads, 2):
            likely = np.allclose(heads[one] + heads[other], 1, atol=1e-3)
            if likely and np.allclose(np.square(values[one]) + np.square(values[other]), 1, atol=1e-3):
                tables |= {one, other}
    return tables


Reader = tuple[NodeProto, int]
Layer = tuple[object, ...]


def modules_of(model: ModelProto) -> dict[str, str]:
    """The path of the module that computes a tensor, where the exporter recorded it."""
    paths: dict[str, str] = {}
    for node in model.graph.node:
        if path := _module_path(next((item.value for item in node.metadata_props if item.key == _SCOPES), "")):
            paths.update(dict.fromkeys(node.output, path))
    return paths


def _module_path(scopes: str) -> str:
    """`['', 'layers.0', 'layers.0.linear', 'addmm']` is the module `layers.0.linear`."""
    try:
        path = ast.literal_eval(scopes) if len(scopes) < 10_000 else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return str(path[-2]) if isinstance(path, list) and len(path) > 1 else ""


class WeightUntying:
    """Gives each layer its own copy of a float constant that it reads, also behind operators that only rearrange it.

    Nodes that compute a weight from constants (its norm, its standardised form) keep sharing what they read, and so do
    readers in one of the `modules`, which are those that compute a tensor, where known.
    """

    def __init__(self, graph: Graph, modules: Mapping[str, str]) -> None:
        self.graph, self.modules = graph, modules
        self.consumers = graph.consumers()
        self.shares: set[int] = set()  # nodes that compute a constant from constants
        self.layers: dict[int, Layer] = {}  # for which layer a node rearranges
        self.clones: dict[int, list[NodeProto]] = {}  # what comes before a node
        self._join_copies()
        repeated: set[str] = set()
        for name, value in self.graph.constants.items():
            if value.dtype == np.float32 and value.size > 1 and value.min() < value.max():
                keys = Counter((self._module(node), node.op_type, at) for node, at in self.consumers.get(name, []))
                repeated.update(module for (module, _, _), count in keys.items() if count > 1 and module)
        self.run_again = repeated

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

    def _module(self, node: NodeProto) -> str:
        return next((self.modules[name] for name in node.output if name in self.modules), "")

    def untie(self) -> dict[str, str]:
        """The constant that each copy was made of."""
        copies = {}
        for node in reversed(self._movers()):
            self._untie_mover(node)
        self.graph.nodes = [each for node in self.graph.nodes for each in (*self.clones.get(id(node), ()), node)]
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
        grouped = [(layer, group) for (layer, _), group in groups.items()]
        return grouped, len(readers) > sum(len(group) for _, group in grouped)

    def _layer(self, node: NodeProto, position: int) -> Layer:
        if (module := self._module(node)) in self.run_again:
            return "module", module, node.op_type, position
        return "node", id(node), node.op_type, position

    def _signature(self, node: NodeProto, position: int) -> Layer:
        """Key of the part of a constant that a rearranging node takes; joining takes all of it."""
        if node.op_type == "Concat":
            return (node.op_type,)
        values = (self.graph.constants.get(name) for i, name in enumerate(node.input) if i != position)
        attributes = (item.SerializeToString(deterministic=True) for item in node.attribute)
        return (node.op_type, position, *(None if v is None else v.tobytes() for v in values), *attributes)
