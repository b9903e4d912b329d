"""The runtime-only classifier: ONNX Runtime computes it as it is, and it cannot be trained.

Random forests, support vectors and graphs with operators that have no counterpart here can still be calibrated: their
scores and features come from the file's own nodes. So do those of a network that PyTorch computes otherwise than ONNX
Runtime: a calibrator that was fitted on PyTorch's scores would belong to another network than the one that is served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from fedlas.contract.profiles import TensorSpec
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.runtime import GraphSession
from fedlas.importers.onnx.train.classifier import GraphClassifier


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
        found = self._whole([value.detach().cpu().numpy() for value in inputs])
        logits, features = (torch.from_numpy(part).to(inputs[0].device) for part in (found[0], found[-1]))
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
        found = dict(zip(self._graph.outputs, self._session([value.cpu().numpy() for value in inputs]), strict=True))
        rows = len(inputs[0])
        parts = [found[name].reshape(rows, -1) for name in self.feature_names]
        made = (found[self.logits_name].reshape(rows, -1), np.concatenate(parts, axis=1))
        logits, features = (torch.from_numpy(part.astype(np.float32)).to(inputs[0].device) for part in made)
        return logits, features

    def head(self, features: Tensor) -> Tensor:
        """Raise TypeError: nothing of it is trained, so no head is asked for."""
        raise TypeError("a network that ONNX Runtime computes whole has no head")
