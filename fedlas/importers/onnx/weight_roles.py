"""Weight roles: which constants of a graph are weights, by their role in the graph and not by their names."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from fedlas.importers.onnx.graph import Array, Graph, Shapes
from fedlas.importers.onnx.operators.table import operator_name, words

#: How the constants begin that are added to a graph here or by an earlier export; they are never weights.
OURS = "fedlas_"

# Inputs that are weights whatever else is known.
_WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),  # 4 is the lengths, 5 and 6 the state before the first step: zeros in every export
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "com.microsoft.Attention": (1, 2),
    "com.microsoft.MultiHeadAttention": (3,),
    "com.microsoft.BiasGelu": (1,),
    "com.microsoft.FastGelu": (1,),
    "com.microsoft.EmbedLayerNormalization": (2, 3, 4, 5, 6),
    "com.microsoft.FusedMatMul": (0, 1),
    "com.microsoft.FusedConv": (1, 2),
    "com.microsoft.FusedGemm": (0, 1, 2),
    "com.microsoft.SkipLayerNormalization": (2, 3, 4),
    "com.microsoft.SkipSimplifiedLayerNormalization": (2, 3),
}
# Operators that combine a weight (bias, layer scale, position embedding, class token) with what was learned before.
_COMBINING = ("Add", "Mul", "Sub", "Sum", "Concat")
# Operators that only rearrange their first input.
TRANSPARENT = words(
    "Expand Reshape Transpose Unsqueeze Squeeze Flatten Identity Cast Slice Gather Split Tile Concat Pad"
)


def constant_derived(graph: Graph) -> set[str]:
    """The names of tensors that no input can change, not even by its shape."""
    derived = {"", *graph.constants}
    for node in graph.nodes:
        if node.input and all(name in derived for name in node.input):
            derived.update(node.output)
    return derived


def data_dependent(graph: Graph) -> set[str]:
    """The names of tensors that the values of the inputs can change (a shape alone does not)."""
    dependent = set(graph.input_names)
    for node in graph.nodes:
        if node.op_type not in ("Shape", "Size") and any(name in dependent for name in node.input):
            dependent.update(node.output)
    return dependent


def find_weights(graph: Graph, shapes: Shapes) -> set[str]:
    """The names of the constants that are weights.

    Weights of layers count always, also where they are computed from constants (a weight's norm, a low-rank update):
    then those constants are the weights. Operands of Add, Mul, Sub, Sum and Concat count where the other operand was
    learned, or where they widen a raw input (a tokeniser of numbers does, a scaler of inputs does not). Single numbers,
    masks, sinusoidal and rotary positions and values of 1e4 and more are constants.
    """
    return _WeightFinder(graph, shapes).find()


class _WeightFinder:
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
        for node in self.graph.nodes:
            if not any(name in self.data for name in node.input):
                continue
            found = [self._take(node, position) for position in range(len(node.input))]
            if any(found) or any(name in self.learned for name in node.input):
                self.learned.update(node.output)
        return self.weights

    def _take(self, node: NodeProto, position: int) -> bool:
        """Record the weights that a node reads at one position; returns whether there are any."""
        name = node.input[position]
        if name in self.data or not name:
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
            computed: by whatever operators (the weight of a layer), or only by those that rearrange (an operand, where
                a computed tensor would be a mask or a position).
        """
        if root in self.trainable:
            return self._record(root, computed or self._could_be_weight(root, single=False))
        found, pending, seen = False, [root], set()
        while pending:
            name = pending.pop()
            if name in self.trainable:
                leaf = self._is_leaf(name) if computed else self._could_be_weight(name, single=False)
                found = self._record(name, leaf) or found
            elif (name, computed) in self.followed:
                found = found or self.followed[name, computed]
            elif name not in seen and (node := self.producers.get(name)) is not None:
                seen.add(name)
                # A single number is a norm: what only it is computed from (spectral_norm's vectors) is no weight.
                norm = int(np.prod(self.shapes.get(name, (2,)))) == 1
                if (computed and not norm) or node.op_type in TRANSPARENT:
                    pending.extend(name for name in node.input if name not in self.data)
        self.followed.update(dict.fromkeys(((name, computed) for name in seen), found))
        return found

    def _is_leaf(self, name: str) -> bool:
        """Whether a constant from which a weight is computed is one itself: no single number, no mask."""
        value = self.graph.constants[name]
        return value.size > 1 and not _is_mask(value)

    def _is_strong(self, node: NodeProto, position: int) -> bool:
        if node.op_type == "Gather":  # an embedding, looked up by an input
            table = self.graph.constants.get(node.input[0])
            looked_up = position == 0 and node.input[1] in self.data
            known = table is not None and (table.ndim != 2 or node.input[0] in self.rotary or not _varied(table))
            return looked_up and not known
        if node.op_type == "InstanceNormalization" and self._is_group_norm(node):
            return False
        return position in _WEIGHT_INPUTS.get(operator_name(node), ())

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

    def _could_be_weight(self, name: str, *, single: bool) -> bool:
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
    producers, found = graph.producers(), set[str]()
    pending = [name for node in graph.nodes if operator_name(node) == "RotaryEmbedding" for name in node.input[1:3]]
    while pending:
        name = pending.pop()
        if name in graph.constants:
            found.add(name)
        elif (node := producers.get(name)) is not None and node.op_type in TRANSPARENT:
            pending.append(node.input[0])
    return found


def _rotary_tables(values: Mapping[str, Array]) -> set[str]:
    """Pairs of constants with sin² + cos² = 1 in every element: rotary positions, in two tables."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, value in values.items():
        if value.ndim >= 2 and value.size >= 4 and np.abs(value.flat[:64]).max() <= 1.0001:
            by_shape.setdefault(value.shape, []).append(name)
    found: set[str] = set()
    for names in by_shape.values():
        # The first elements tell pairs apart from chance; comparing all with all is for few tables of one shape only.
        heads = {name: np.square(values[name].flat[:64]) for name in names} if len(names) <= 64 else {}
        for one, other in itertools.combinations(heads, 2):
            likely = np.allclose(heads[one] + heads[other], 1, atol=1e-3)
            if likely and np.allclose(np.square(values[one]) + np.square(values[other]), 1, atol=1e-3):
                found |= {one, other}
    return found
