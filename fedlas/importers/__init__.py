"""Importers: uploaded files become classifiers, and no code of an upload is run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fedlas.extras import require

require("library", "torch", "onnx")

if TYPE_CHECKING:
    from fedlas.importers.onnx import GraphClassifier, InputSpec, OnnxClassifier, check_parity, load_onnx

_HOMES = {
    "GraphClassifier": "onnx",
    "InputSpec": "onnx",
    "OnnxClassifier": "onnx",
    "check_parity": "onnx",
    "load_onnx": "onnx",
}
__all__ = [
    "GraphClassifier",
    "InputSpec",
    "OnnxClassifier",
    "check_parity",
    "load_onnx",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        found: object = getattr(import_module(f"fedlas.importers.{_HOMES[name]}"), name)
        return found
    raise AttributeError(f"module 'fedlas.importers' has no attribute {name!r}")
