"""Importers: uploaded files become classifiers, and no code of an upload is run."""

from __future__ import annotations

from fedlas.extras import require

require("library", "torch", "onnx", "pydantic")

from fedlas.importers.onnx.loading import check_parity, load_onnx
from fedlas.importers.onnx.train.classifier import GraphClassifier, OnnxClassifier

__all__ = ["GraphClassifier", "OnnxClassifier", "check_parity", "load_onnx"]
