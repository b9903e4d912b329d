"""Inference: ONNX Runtime sessions over served copies, dynamic batching, and predictions made of their outputs.

The serving application and the batch predictions of the worker both use it.
"""

from __future__ import annotations

import os

# Before ONNX Runtime is loaded: a service that holds other people's models sends no telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
