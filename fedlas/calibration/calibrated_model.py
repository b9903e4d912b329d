"""Calibrated models in this process: a network whose graph has its calibrator inside, or a model with one behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas.calibration.model_scores import Answering, score_matrix
from fedlas.calibrators import softmax
from fedlas.conversion.columns import as_array
from fedlas.conversion.rows import rows_of
from fedlas.data import align_inputs
from fedlas.data.roles import ColumnOrder
from fedlas.data.scores import Kind
from fedlas.errors import ConversionError
from fedlas.export.scores_graph import as_logits
from fedlas.importers import GraphClassifier

Floats = NDArray[np.float64]
_BATCH = 512


class CalibratedModel(nn.Module):
    """A module that answers with calibrated probabilities."""

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = [str(name) for name in class_names]

    def predict_proba(self, inputs: Any) -> Floats:
        """Calibrated probabilities (N, K) of rows."""
        raise NotImplementedError

    def predict(self, inputs: Any) -> NDArray[np.str_]:
        """The names (N,) of the most probable classes."""
        return np.asarray(np.array(self.class_names)[self.predict_proba(inputs).argmax(axis=1)])


class CalibratedNetwork(CalibratedModel):
    """The served network as a module: inputs in, calibrated logits (N, K) out, whose softmax are the probabilities.

    Attributes:
        classifier: the network with its calibrator inside; `classifier(*inputs)` gives features beside the logits.
    """

    def __init__(
        self, classifier: GraphClassifier, class_names: Sequence[str], columns: Sequence[str] | None = None
    ) -> None:
        super().__init__(class_names)
        self.classifier = classifier
        self.columns = None if columns is None else list(columns)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(*inputs)[0]
        return logits

    def predict_proba(self, inputs: Any) -> Floats:
        """Calibrated probabilities (N, K) of an array, several of them by name, a frame, or a loader."""
        device = next((value.device for value in self.parameters()), torch.device("cpu"))
        with torch.no_grad():
            logits = [self(*[value.to(device) for value in batch]).cpu().numpy() for batch in self._batches(inputs)]
        return softmax(np.concatenate(logits))

    def _batches(self, inputs: Any) -> Iterator[list[Tensor]]:
        if isinstance(inputs, tuple):
            inputs = dict(zip(self.classifier.input_names, inputs, strict=True))
        aligned = list(
            align_inputs(_inputs(inputs, self.columns), self.classifier.inputs, order=ColumnOrder()).values()
        )
        for start in range(0, len(aligned[0]), _BATCH):
            yield [torch.from_numpy(np.ascontiguousarray(array[start : start + _BATCH])) for array in aligned]


def _inputs(inputs: Any, columns: Sequence[str] | None) -> dict[str, Any]:
    """Arrays by name; the columns of a frame are put side by side in the model's order."""
    if not hasattr(inputs, "iloc"):
        return rows_of(inputs, {}).inputs()
    if columns is not None:
        if missing := [name for name in columns if name not in inputs.columns]:
            raise ConversionError("columns_mismatch", f"the frame has no column '{missing[0]}', which the model reads")
        inputs = inputs[list(columns)]
    return {"x": inputs.to_numpy(dtype=np.float64)}


class ScoresCalibrator(CalibratedModel):
    """A calibrator of scores (N, K), logits or probabilities as they were given: calibrated log-probabilities out.

    No gradient flows through it: ONNX Runtime computes it, as it computes the file.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__(class_names)
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.kind = "logits" if self._input == "logits" else "probabilities"

    def forward(self, scores: Tensor) -> Tensor:
        return torch.from_numpy(self.predict_proba(scores)).clamp_min(1e-30).log().to(scores.device, torch.float32)

    def predict_proba(self, inputs: Any) -> Floats:
        scores = score_matrix(as_array(inputs, self.kind), self.kind).astype(np.float32)
        return np.asarray(self._session.run(["probabilities"], {self._input: scores})[0], np.float64)


class CalibratedScores(CalibratedModel):
    """A model that is no file, with a calibrator behind its scores: calibrated log-probabilities (N, K) out.

    Attributes:
        model: the estimator or module as it was given.
        calibrator: what is behind it; None where the verdict leaves the model as it is.
    """

    def __init__(
        self, answering: Answering, kind: Kind, class_names: Sequence[str], calibrator: ScoresCalibrator | None
    ) -> None:
        super().__init__(class_names)
        self._answering, self._kind = answering, kind
        self.model, self.calibrator = answering.model, calibrator

    def forward(self, inputs: Tensor) -> Tensor:
        """Return calibrated log-probabilities (N, K); no gradient flows through the calibrator."""
        return torch.from_numpy(self.predict_proba(inputs)).clamp_min(1e-30).log().float()

    def predict_proba(self, inputs: Any) -> Floats:
        """Calibrated probabilities (N, K) of rows as the model takes them."""
        scores = score_matrix(self._answering(inputs), self._kind)
        if self.calibrator is not None:
            return self.calibrator.predict_proba(scores)
        return softmax(as_logits(self._kind, scores.astype(np.float32)))
