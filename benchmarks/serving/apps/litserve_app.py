"""The model behind LitServe, as its documentation writes a batched API; settings come from the environment."""

import os
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Classifier(litserve.LitAPI):
    """One row per request; LitServe gathers them to batches where a batch may hold more than one."""

    def setup(self, device: str) -> None:
        """Called once in the worker process."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["SERVED_MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request) -> np.ndarray:  # type: ignore[no-untyped-def]  # LitServe acts on annotations
        """The rows (1, D) of one request."""
        return np.asarray(request["inputs"], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Rows (N, D) of N requests."""
        return np.concatenate(inputs)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities (N, K)."""
        probs: np.ndarray = self.session.run(["probabilities"], {"x": rows})[0]
        return probs

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Probabilities (1, K) of each request."""
        return [output[i : i + 1] for i in range(len(output))]

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """The answer of one request."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Classifier(max_batch_size=int(os.environ["MAX_BATCH_SIZE"]), batch_timeout=float(os.environ["BATCH_TIMEOUT"]))
    fast = os.environ["FAST_QUEUE"] == "1"
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=fast)
    # Without `log_level` uvicorn writes a line for every request.
    port = int(os.environ["PORT"])
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False)
