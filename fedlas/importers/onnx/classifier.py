"""The classifier that an ONNX graph becomes: a trainable body and head, and the graph that takes its weights back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fedlas.classifier import Classifier
from fedlas.importers.onnx.examples import InputSpec, example_inputs
from fedlas.importers.onnx.graph import Graph

#: What every served file computes; inputs of these names are renamed (`features` → `features_input_0`).
STANDARD_OUTPUTS = ("logits", "probabilities", "confidence", "features")


class Template:
    """The uploaded graph without the weights; never changed, so copies of a classifier share it."""

    def __init__(self, graph: Graph, logits: str, frontier: Sequence[str], weights: dict[str, str]) -> None:
        self.graph = graph.copy()
        self.logits = logits
        self.frontier = tuple(frontier)
        self.weights = dict(weights)
        for name in weights:
            self.graph.constants.pop(name, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Template:
        return self


class OnnxClassifier(Classifier):
    """An imported network; `forward(*inputs)` takes the inputs in the order of `inputs`.

    Attributes:
        inputs: name, type and shape of every input.
        output_name: the graph's output that was taken.
        output_kind: `"logits"` or `"probabilities"`: what that output was (the classifier itself gives logits).
        feature_layer: name of the tensor (or tensors, joined by commas) that the features are.
        task: `"binary"` or `"multiclass"`.
        trainable: whether there is anything to train.
        opset, ir_version: the upload's versions, which an export keeps.
    """

    def __init__(
        self,
        *,
        body: fx.GraphModule,
        head: fx.GraphModule,
        template: Template,
        feature_shapes: Sequence[tuple[int, ...]],
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
        self._lengths = dict(lengths)
        self.input_names = tuple(spec.name for spec in inputs)
        self.num_classes = num_classes
        self.feature_dim = sum(int(np.prod(shape)) for shape in feature_shapes)
        self.output_name, self.output_kind, self.task = output_name, output_kind, task
        self.feature_layer = ",".join(template.frontier)
        self.opset, self.ir_version = template.graph.opset, template.graph.ir_version
        self._dtypes = tuple(getattr(torch, spec.dtype) for spec in inputs)

    @property
    def trainable(self) -> bool:
        return any(parameter.numel() for parameter in self.parameters())

    def example_rows(self, rows: int) -> list[NDArray[Any]]:
        """Made-up rows of every input, valid for the graph, for proofs that two forms of it compute the same."""
        return [value.numpy() for value in example_inputs(list(self.inputs), rows, self._lengths).values()]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))`; inputs are cast to the graph's types, values unchanged."""
        given = [value.to(dtype) for value, dtype in zip(inputs, self._dtypes, strict=True)]
        parts = [part.flatten(1) for part in self.body(*given)]
        features = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self.head(features), features

    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, K) for features (N, D)."""
        sizes = [int(np.prod(shape)) for shape in self.feature_shapes]
        parts = torch.split(features, sizes, 1) if len(sizes) > 1 else (features,)
        shaped = [part.unflatten(1, shape) for part, shape in zip(parts, self.feature_shapes, strict=True)]
        logits: Tensor = self.head_network(*shaped)[0]
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the layers after the features."""
        return list(self.head_network.parameters())

    def graph(self) -> Graph:
        """The uploaded graph, ending in the logits, with this classifier's weights and running statistics."""
        graph = self.template.graph.copy()
        state = self.state_dict()
        for name, place in self.template.weights.items():
            graph.constants[name] = state[place].detach().cpu().numpy()
        return graph
