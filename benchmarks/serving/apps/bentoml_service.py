"""The model behind BentoML, once with adaptive batching and once without; both as its documentation writes them."""

from __future__ import annotations

import os
from typing import Annotated

import bentoml
import numpy as np
import onnxruntime as ort
from bentoml.validators import DType, Shape

Rows = Annotated[np.ndarray, DType("float32"), Shape((-1, int(os.environ["ROW_SIZE"])))]
Probabilities = Annotated[np.ndarray, DType("float32")]
#: A line for every request is BentoML's default.
LOGGING = {"access": {"enabled": os.environ["ACCESS_LOG"] == "1"}}


def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(os.environ["SERVED_MODEL"], options, providers=["CPUExecutionProvider"])


@bentoml.service(workers=1, logging=LOGGING)
class Batched:
    """Requests are gathered by the adaptive dispatcher."""

    def __init__(self) -> None:
        self.session = _session()

    @bentoml.api(batchable=True, max_batch_size=int(os.environ.get("MAX_BATCH_SIZE", "100")))
    def predict(self, inputs: Rows) -> Probabilities:
        """Probabilities (N, K) of the rows (N, D)."""
        probs: np.ndarray = self.session.run(["probabilities"], {"x": inputs})[0]
        return probs


@bentoml.service(workers=1, logging=LOGGING)
class Plain:
    """Every request is computed on its own, in the event loop: a thread per request would cost more than the model."""

    def __init__(self) -> None:
        self.session = _session()

    @bentoml.api
    async def predict(self, inputs: Rows) -> Probabilities:
        """Probabilities (N, K) of the rows (N, D)."""
        probs: np.ndarray = self.session.run(["probabilities"], {"x": inputs})[0]
        return probs
