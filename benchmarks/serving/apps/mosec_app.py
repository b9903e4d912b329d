"""The model behind mosec, as its documentation writes a batched service; settings come from the environment."""

import os
from typing import Any

import numpy as np
import onnxruntime as ort
from mosec import Server, Worker

SIZE = int(os.environ["MAX_BATCH_SIZE"])
WAIT_MS = int(os.environ["MAX_WAIT_MS"])


class Classifier(Worker):
    """One row per request; mosec gathers them to batches where a batch may hold more than one."""

    def __init__(self) -> None:
        """Called once in the worker process."""
        super().__init__()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["SERVED_MODEL"], options, providers=["CPUExecutionProvider"])

    def forward(self, data: Any) -> Any:
        """The answers of N requests; without batches, of one."""
        if SIZE == 1:
            return {"probabilities": self._probs(data["inputs"]).tolist()}
        probs = self._probs([row for request in data for row in request["inputs"]])
        return [{"probabilities": probs[i : i + 1].tolist()} for i in range(len(data))]

    def _probs(self, rows: Any) -> np.ndarray:
        probs: np.ndarray = self.session.run(["probabilities"], {"x": np.asarray(rows, np.float32)})[0]
        return probs


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=int(os.environ["WORKERS"]), max_batch_size=SIZE, max_wait_time=WAIT_MS)
    server.run()
