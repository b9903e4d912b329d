"""A server as one would write it in an afternoon: FastAPI, a pydantic model of the rows, ONNX Runtime; no batching."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel


class Rows(BaseModel):
    """The request."""

    inputs: list[list[float]]


class Probabilities(BaseModel):
    """The answer."""

    probabilities: list[list[float]]


def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(os.environ["SERVED_MODEL"], options, providers=["CPUExecutionProvider"])


app = FastAPI()
session = _session()


@app.post("/predict")
async def predict(rows: Rows) -> Probabilities:  # `def` would send every request through a thread
    """Probabilities (N, K) of the rows (N, D)."""
    (probs,) = session.run(["probabilities"], {"x": np.asarray(rows.inputs, np.float32)})
    return Probabilities(probabilities=probs.tolist())
