"""The ONNX classifier: a trainable body and head, and the graph that takes their weights back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.input_specs import InputSpec


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
    """An imported network; `forward(*inputs)` takes the inputs in the order of `inputs`.

    Without a `head`, where the logits need more than the features, `body` gives both.
    """

    def __init__(
        self,
        *,
        body: fx.GraphModule,
        head: fx.GraphModule | None,
        template: GraphTemplate,
        feature_shapes: Sequence[tuple[int, ...]],
        feature_layer: str,
        inputs: Sequence[InputSpec],
        num_classes: int,
        output_name: str,
        output_kind: str,
        task: str,
        lengths: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.body, self.head_network = body, head
        self.template = template
        self.feature_shapes = tuple(feature_shapes)
        self.inputs = tuple(inputs)
        self.lengths = dict(lengths)
        self.input_names = tuple(spec.name for spec in inputs)
        self.num_classes = num_classes
        self.feature_dim = sum(int(np.prod(shape)) for shape in feature_shapes)
        self.output_name, self.output_kind, self.task = output_name, output_kind, task
        self.feature_layer = feature_layer
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
