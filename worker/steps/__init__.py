"""Where each kind of work meets the registry: what the child needs, and how its answer is published."""

from worker.steps.base import NotReady, Prepared, Step
from worker.steps.calibrating import Calibrate
from worker.steps.inspecting import InspectDataset, InspectModel
from worker.steps.predicting import Predict
from worker.steps.scores import FitScores

__all__ = ["STEPS", "NotReady", "Prepared", "Step"]

#: By the prefix of the record's id.
STEPS: dict[str, type[Step]] = {
    "ds": InspectDataset,
    "mdl": InspectModel,
    "job": Calibrate,
    "bat": Predict,
    "cal": FitScores,
}
