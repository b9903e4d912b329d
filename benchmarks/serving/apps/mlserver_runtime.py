"""The model behind MLServer: a custom inference runtime, as its documentation writes one."""

from __future__ import annotations

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):
    """Adaptive batching, where it is switched on, happens around `predict`."""

    async def load(self) -> bool:
        """Open the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities (N, K) of the rows (N, D)."""
        (probs,) = self.session.run(["probabilities"], {"x": NumpyCodec.decode_input(payload.inputs[0])})
        outputs = [NumpyCodec.encode_output("probabilities", probs)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
