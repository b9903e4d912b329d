"""The ONNX importer: ONNX files become trainable classifiers.

In the order of `loading.load_onnx`: `parsing` (bytes → checked model), `normalise` (one form), `input_specs` and
`batch_dimension` (any number of rows), `heads` (logits and features), `sizes` (what a row may cost), `weight_roles`
(which constants are weights), `lowering` (→ torch.fx, by the table in `operators`), `classifier`; what cannot be
trained goes to `runtime_only`.
"""

from __future__ import annotations

from fedlas.importers.onnx.classifier import OnnxClassifier
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.input_specs import InputSpec
from fedlas.importers.onnx.loading import load_onnx
from fedlas.importers.onnx.parity import check_parity

__all__ = ["GraphClassifier", "InputSpec", "OnnxClassifier", "check_parity", "load_onnx"]
