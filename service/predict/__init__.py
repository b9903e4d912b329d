"""Predictions: requests in many formats become rows, batches run through ONNX Runtime, and answers are written.

`app` answers, in front of FastAPI, whose layers cost about as much again as all that a prediction needs (measured:
10,000 against 20,000 empty answers a second on one core). It calls `predict` or `infer`, whose steps `call` has;
`formats` read and write, and `engine` runs. Batch predictions of the worker use formats and engine, too.
"""

from __future__ import annotations

import os

# Before ONNX Runtime is loaded: a service that holds other people's models sends no telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
