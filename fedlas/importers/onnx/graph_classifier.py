"""The interface of imported classifiers: beyond training, their inputs and a graph that takes their weights back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from fedlas.classifier import Classifier
from fedlas.importers.onnx.graph import Array, Graph
from fedlas.importers.onnx.input_specs import InputSpec, example_inputs
from fedlas.notice import Notice

#: What every served file computes; inputs of these names are renamed (`features` → `features_input_0`).
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

    inputs: tuple[InputSpec, ...]
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
        """Whether there is anything to train."""
        return any(parameter.numel() for parameter in self.parameters())

    def example_rows(self, rows: int) -> list[Array]:
        """Made-up rows of every input, valid for the graph, for proofs that two forms of it compute the same."""
        return [value.numpy() for value in example_inputs(list(self.inputs), rows, self.lengths).values()]


def rename_inputs(graph: Graph) -> dict[str, str]:
    """Rename the inputs that are called as a standard output is; returns the new names."""
    renamed = {}
    for name in sorted(set(graph.input_names) & set(STANDARD_OUTPUTS)):
        renamed[name] = graph.fresh(f"{name}_input")
        graph.rename_input(name, renamed[name])
    return renamed
