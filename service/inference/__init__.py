"""Serving: ONNX Runtime sessions over files that we wrote, and the answers made from their outputs.

It knows neither HTTP nor the database; the API and the batch predictions of the worker both use it.
"""

from __future__ import annotations

import os

# Before ONNX Runtime is loaded: a service that holds other people's models reports to nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
