"""The ONNX importer: ONNX files become trainable classifiers.

In the order of `loading.load_onnx`: `reading` (bytes → checked model), `normalise` (one form), `examples` and `batch`
(any number of rows), `heads` (logits and features), `roles` (which constants are weights), `lowering` (→ torch.fx, by
the table in `operators`), `classifier`.
"""

from __future__ import annotations

from fedlas.importers.onnx.classifier import OnnxClassifier
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.input_specs import InputSpec
from fedlas.importers.onnx.loading import load_onnx
from fedlas.importers.onnx.parity import check_parity

__all__ = ["GraphClassifier", "InputSpec", "OnnxClassifier", "check_parity", "load_onnx"]
