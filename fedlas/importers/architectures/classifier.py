"""A network of a known architecture as a classifier, with real BatchNorm and Dropout."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedlas.importers.architectures.exporting import FEATURES, IR_VERSION, LOGITS, OPSET, ExportedGraph, export
from fedlas.importers.architectures.heads import ClassifierHeads, listening
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.input_specs import InputSpec
from fedlas.notice import Notice


class NativeClassifier(GraphClassifier):
    """`network` as it is; its features are what its last layer reads, the mean over positions where that is a map.

    Scores that are pooled after the last layer need the whole map: then there is no `head`.

    Attributes:
        network: gives scores (N, K) for images (N, C, H, W).
        architecture: its name, as the upload gave it.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: ClassifierHeads,
        *,
        architecture: str,
        num_classes: int,
        image_shape: Sequence[int],
        adjustments: Sequence[Notice] = (),
    ) -> None:
        super().__init__()
        self.network, self.heads = network, heads
        self.architecture, self.adjustments = architecture, tuple(adjustments)
        self.num_classes = num_classes
        self._pools = any(math.prod(shape[1:]) > 1 for shape in heads.shapes)
        self.feature_dim = sum(shape[0] if self._pools else math.prod(shape) for shape in heads.shapes)
        self.inputs = (InputSpec("input", "float32", ("N", *image_shape)),)
        self.input_names, self.lengths = ("input",), {}
        self.output_name, self.output_kind = "logits", "logits"
        self.task = "binary" if num_classes == 2 else "multiclass"
        self.feature_layer = f"input of {', '.join(heads.paths)}"
        self.opset, self.ir_version = OPSET, IR_VERSION
        self.logits_name, self.feature_names = LOGITS, (FEATURES,)
        self._exported = _SharedExport()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))` for one input of images (N, C, H, W)."""
        (images,) = inputs
        with listening(self.network, self.heads.paths) as heard:
            logits: Tensor = self.network(images.to(torch.float32))
        features = [value.flatten(2).mean(2) if self._pools else value.flatten(1) for (value,) in heard]
        return logits, torch.cat(features, 1)

    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, K) for features (N, D); raises TypeError where the features alone do not tell them."""
        if self._pools:
            raise TypeError(f"the logits need the whole map that {self.feature_layer} is, not its mean alone")
        parts = torch.split(features, [math.prod(shape) for shape in self.heads.shapes], 1)
        shaped = [part.unflatten(1, shape) for part, shape in zip(parts, self.heads.shapes, strict=True)]
        return self.heads.scores(self.network, shaped)

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the last layers; none where there is no head."""
        if self._pools:
            return []
        layers = [self.network.get_submodule(path) for chain in self.heads.chains for path in chain]
        return [parameter for layer in layers for parameter in layer.parameters()]

    def graph(self) -> Graph:
        """The network in inference as an ONNX graph with its weights and running statistics of now.

        Raises:
            UnsupportedModel: `not_exportable` where PyTorch cannot write the network as ONNX.
        """
        if self._exported.value is None:
            self._exported.value = export(self._copy_for_export(), self.example_rows(2))
        return self._exported.value.with_weights(self)

    def _copy_for_export(self) -> nn.Module:
        """A copy, on the CPU, of everything but the weights there.

        Tracing leaves things behind in some networks (tables kept for inference); training mode clears them.
        """
        moved: dict[int, object] = {id(p): nn.Parameter(p.detach().cpu(), p.requires_grad) for p in self.parameters()}
        moved |= {id(buffer): buffer.cpu() for buffer in self.buffers()}
        return copy.deepcopy(self, moved).train().eval()


class _SharedExport:
    """The graph without weights, made once for a classifier and all its copies."""

    def __init__(self) -> None:
        self.value: ExportedGraph | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> _SharedExport:
        return self
