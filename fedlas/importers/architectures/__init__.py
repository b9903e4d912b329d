"""The importer of weights: a safetensors file and the name of an architecture become a trainable classifier.

In the order of `loading.load_architecture`: `libraries` (which architectures exist, and how they are built), `building`
(without memory), `matching` (the file's header against the network), `heads` (where the features are), `classifier`,
and `exporting` (the network as an ONNX graph).
"""

from __future__ import annotations

from fedlas.importers.architectures.classifier import NativeClassifier
from fedlas.importers.architectures.loading import load_architecture

__all__ = ["NativeClassifier", "load_architecture"]
