"""An imported network as ONNX Runtime computes it: for calibrating what is served, to the last bit.

Where PyTorch computes an upload otherwise than ONNX Runtime does, a calibrator that was fitted on PyTorch's scores
belongs to another network than the one that would be served. One fitted on these scores does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.runtime_session import GraphSession


class RuntimeComputedClassifier(GraphClassifier):
    """The graph of another classifier, with its weights as they are now, in ONNX Runtime; it cannot be trained.

    Raises:
        UnsupportedModel: `not_runnable`.
    """

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

    def head_parameters(self) -> list[nn.Parameter]:
        """None: nothing can be trained."""
        return []

    def graph(self) -> Graph:
        """The imported graph."""
        return self._graph.copy()

    def __deepcopy__(self, memo: dict[int, object]) -> RuntimeComputedClassifier:
        """Nothing in it changes but its mode, which has no effect."""
        return self
