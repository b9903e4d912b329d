"""Uploads become classifiers; no code of an upload is ever run, and nothing here knows where the file came from."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlas.importers.onnx import GraphClassifier, InputSpec, OnnxClassifier, check_parity, load_onnx

__all__ = ["GraphClassifier", "InputSpec", "OnnxClassifier", "check_parity", "load_onnx"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("fedlas.importers.onnx"), name)
    raise AttributeError(f"module 'fedlas.importers' has no attribute {name!r}")
