"""The imported classifier: a trainable body and head, and the graph that takes their weights back.

The runtime-only classifier: ONNX Runtime computes it as it is, and it cannot be trained.

Random forests, support vectors and graphs with operators that have no counterpart here can still be calibrated: their
scores and features come from the file's own nodes. So do those of a network that PyTorch computes otherwise than ONNX
Runtime: a calibrator that was fitted on PyTorch's scores would belong to another network than the one that is served.

The kind of a network, known by how it mixes positions: it decides which optimiser suits a fine-tune.

Attention is a Softmax of products of two computed tensors, whose result multiplies a computed tensor again, or an
operator that is all of this at once. A pooling that weighs positions by a linear map is none, nor are gates of
channels. Hybrids count as transformers, which are trained as those are: with AdamW.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self, TypeAlias

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, fx, nn

from fedlas.classifier import Classifier
from fedlas.contract.profiles import Notice, TensorSpec
from fedlas.importers.onnx.evaluator import example_inputs
from fedlas.importers.onnx.graph import Array, Graph, data_dependent, integers
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.operators.table import TRANSPARENT, words
from fedlas.importers.onnx.runtime import GraphSession
from fedlas.importers.onnx.train.heads import Head

#: Outputs that every served file computes; inputs of these names are renamed (`features` → `features_input_0`).
STANDARD_OUTPUTS = ("logits", "probabilities", "confidence", "features")


class GraphClassifier(Classifier):
    """A classifier that can be written as an ONNX graph.

    Attributes:
        inputs: name, type and shape of every input; `input_names` are their names.
        lengths: a size with which the graph runs for every open axis of the inputs.
        output_name: the output of the upload that was taken.
        output_kind: `"logits"` or `"probabilities"`: what that output was (the classifier itself gives logits).
        feature_layer: the name of the features.
        task: `"binary"` or `"multiclass"`.
        opset, ir_version: the upload's versions, which an export keeps.
        class_labels: the names of the classes where the upload itself carries them.
        metadata: the properties of the upload's file by name.
        adjustments: what was done to open it.
        reason: why it cannot be trained, where it cannot.
        logits_name, feature_names: the tensors of `graph()` that hold the logits (N, K) and, side by side and
            flattened, the features (N, D).
    """

    inputs: tuple[TensorSpec, ...]
    lengths: dict[str, int]
    output_name: str
    output_kind: str
    feature_layer: str
    task: str
    opset: int
    ir_version: int
    logits_name: str
    feature_names: tuple[str, ...]
    class_labels: tuple[str, ...] | None = None
    metadata: Mapping[str, str] = MappingProxyType({})
    adjustments: tuple[Notice, ...] = ()
    reason: str = ""

    @abstractmethod
    def graph(self) -> Graph:
        """The graph from the inputs to the logits with this classifier's weights; a copy that may be changed."""

    @property
    def trainable(self) -> bool:
        return any(parameter.numel() for parameter in self.parameters())

    def example_rows(self, rows: int) -> list[Array]:
        """Made-up rows of every input, valid for the graph, for proofs that two forms of it compute the same."""
        return [value.numpy() for value in example_inputs(list(self.inputs), rows, self.lengths).values()]


def rename_inputs(graph: Graph) -> dict[str, str]:
    """Rename the inputs that are called as a standard output is; returns the new names."""
    renamed = {}
    for name in sorted(set(graph.input_names) & set(STANDARD_OUTPUTS)):
        renamed[name] = graph.fresh(f"{name}_input")
        graph.replace_input(name, renamed[name])
    for info in graph.inputs:
        info.name = renamed.get(info.name, info.name)
    return renamed


class GraphTemplate:
    """The uploaded graph without the weights; never changed, so copies of a classifier share it."""

    def __init__(self, graph: Graph, logits: str, frontier: Sequence[str], weights: dict[str, str]) -> None:
        self.graph = graph.copy()
        self.logits = logits
        self.frontier = tuple(frontier)
        self.weights = dict(weights)
        for name in weights:
            self.graph.constants.pop(name, None)

    def __deepcopy__(self, memo: dict[int, object]) -> GraphTemplate:
        return self


class OnnxClassifier(GraphClassifier):
    """An imported network; `body` gives logits too, and there is no head, where these need more than the features."""

    def __init__(
        self,
        *,
        body: fx.GraphModule,
        head_network: fx.GraphModule | None,
        template: GraphTemplate,
        head: Head,
        feature_shapes: Sequence[tuple[int, ...]],
        inputs: Sequence[TensorSpec],
        lengths: Mapping[str, int],
        task: str | None,
    ) -> None:
        super().__init__()
        self.body, self.head_network = body, head_network
        self.template = template
        self.feature_shapes = tuple(feature_shapes)
        self.inputs = tuple(inputs)
        self.lengths = dict(lengths)
        self.input_names = tuple(spec.name for spec in inputs)
        self.num_classes = max(head.columns, 2)
        self.feature_dim = sum(int(np.prod(shape)) for shape in feature_shapes)
        self.output_name, self.output_kind = head.output, head.kind
        self.task = task or ("binary" if self.num_classes == 2 else "multiclass")
        self.feature_layer = ",".join(head.frontier)
        self.logits_name, self.feature_names = template.logits, template.frontier
        self.opset, self.ir_version = template.graph.opset, template.graph.ir_version
        self._dtypes = tuple(getattr(torch, spec.dtype) for spec in inputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))`; inputs are cast to the graph's types, values unchanged."""
        given = [value.to(dtype) for value, dtype in zip(inputs, self._dtypes, strict=True)]
        parts = [part.flatten(1) for part in self.body(*given)]
        if self.head_network is None:
            return parts[0], parts[1]
        features = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self.head(features), features

    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, K) for features (N, D); raises TypeError where the features alone do not tell them."""
        if self.head_network is None:
            raise TypeError(f"the logits are not made of the features alone, the mean of {self.feature_layer!r}")
        sizes = [int(np.prod(shape)) for shape in self.feature_shapes]
        parts = torch.split(features, sizes, 1) if len(sizes) > 1 else (features,)
        shaped = [part.unflatten(1, shape) for part, shape in zip(parts, self.feature_shapes, strict=True)]
        logits: Tensor = self.head_network(*shaped)[0]
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the layers after the features; none where there is no head."""
        return [] if self.head_network is None else list(self.head_network.parameters())

    def graph(self) -> Graph:
        """The uploaded graph, activation in the logits, with this classifier's weights and running statistics."""
        graph = self.template.graph.copy()
        state = self.state_dict()
        for name, place in self.template.weights.items():
            graph.constants[name] = state[place].detach().cpu().numpy()
        return graph


@dataclass(frozen=True)
class ScoreTensors:
    """The tensors that score a graph's classes: logits (N, K), features (N, …), and the upload's name of its output."""

    logits: str
    features: str
    feature_shape: tuple[int, ...]
    num_classes: int
    output: str
    kind: str
    layer: str  # the upload's tensor that the features are, or that they were made of


class _RuntimeClassifier(GraphClassifier):
    """A classifier whose graph ONNX Runtime computes: nothing in it changes but its mode, which has no effect."""

    _graph: Graph

    def head_parameters(self) -> list[nn.Parameter]:
        return []

    def graph(self) -> Graph:
        return self._graph.copy()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


class RuntimeOnlyClassifier(_RuntimeClassifier):
    """A classifier that ONNX Runtime computes on the CPU, without parameters; `reason` says why it is not trainable."""

    def __init__(
        self,
        graph: Graph,
        scores: ScoreTensors,
        *,
        inputs: Sequence[TensorSpec],
        lengths: Mapping[str, int],
        task: str,
        reason: str,
    ) -> None:
        super().__init__()
        self._scores, self.reason = scores, reason
        self._graph = graph.copy()
        self._graph.prune([scores.logits, scores.features])
        self.inputs, self.lengths = tuple(inputs), dict(lengths)
        self.input_names = tuple(spec.name for spec in inputs)
        self.num_classes, self.feature_dim = scores.num_classes, int(np.prod(scores.feature_shape))
        self.output_name, self.output_kind, self.task = scores.output, scores.kind, task
        self.feature_layer = scores.layer
        self.logits_name, self.feature_names = scores.logits, (scores.features,)
        self.opset, self.ir_version = graph.opset, graph.ir_version
        self._whole = GraphSession(self._graph, list(dict.fromkeys((scores.logits, scores.features))))
        self._head = (
            None if scores.features == scores.logits else GraphSession(_head_of(self._graph, scores), [scores.logits])
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))`, without gradients, where the inputs are."""
        outputs = self._whole([value.detach().cpu().numpy() for value in inputs])
        logits, features = (torch.from_numpy(part).to(inputs[0].device) for part in (outputs[0], outputs[-1]))
        return logits, features.flatten(1)

    def head(self, features: Tensor) -> Tensor:
        if self._head is None:
            return features
        shaped = features.detach().cpu().numpy().reshape(len(features), *self._scores.feature_shape)
        return torch.from_numpy(self._head([shaped])[0]).to(features.device)


def _head_of(graph: Graph, scores: ScoreTensors) -> Graph:
    head = graph.copy()
    shape: list[int | str] = ["N", *scores.feature_shape]
    head.inputs = [helper.make_tensor_value_info(scores.features, TensorProto.FLOAT, shape)]
    head.nodes = graph.cone([scores.logits], stop=[scores.features])
    head.prune([scores.logits])
    return head


class RuntimeComputedClassifier(_RuntimeClassifier):
    """Another classifier's graph and weights in ONNX Runtime, not trainable; raises UnsupportedModel."""

    reason = "PyTorch computes it otherwise than ONNX Runtime, which serves it"

    def __init__(self, imported: GraphClassifier) -> None:
        super().__init__()
        self.inputs, self.input_names, self.lengths = imported.inputs, imported.input_names, imported.lengths
        self.num_classes, self.feature_dim, self.task = imported.num_classes, imported.feature_dim, imported.task
        self.output_name, self.output_kind = imported.output_name, imported.output_kind
        self.feature_layer, self.class_labels = imported.feature_layer, imported.class_labels
        self.opset, self.ir_version = imported.opset, imported.ir_version
        self.logits_name, self.feature_names = imported.logits_name, imported.feature_names
        self._graph = imported.graph()
        self._graph.prune(list(dict.fromkeys((self.logits_name, *self.feature_names))))
        self._session = GraphSession(self._graph, self._graph.outputs, typed=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))`, without gradients, where the inputs are."""
        outputs = dict(zip(self._graph.outputs, self._session([value.cpu().numpy() for value in inputs]), strict=True))
        rows = len(inputs[0])
        parts = [outputs[name].reshape(rows, -1) for name in self.feature_names]
        made = (outputs[self.logits_name].reshape(rows, -1), np.concatenate(parts, axis=1))
        logits, features = (torch.from_numpy(part.astype(np.float32)).to(inputs[0].device) for part in made)
        return logits, features

    def head(self, features: Tensor) -> Tensor:
        """Raise TypeError: nothing of it is trained, so no head is asked for."""
        raise TypeError("a network that ONNX Runtime computes whole has no head")


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
