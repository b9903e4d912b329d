"""The calibrated graph that is served, and the proof that it computes what was judged."""

from fedlas.extras import require

require("library", "torch", "onnx", "pydantic")
