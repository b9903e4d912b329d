"""The kinds of work, one module each: what the child is given, and how its result is published."""

from service.registry.queues import PLAN
from service.registry.repositories import Claim
from worker.outside.kinds.base import Prepared, WorkKind
from worker.outside.kinds.batch import Predict, PredictShard
from worker.outside.kinds.delivery import Deliver
from worker.outside.kinds.jobs import Calibrate, Plan
from worker.outside.kinds.uploads import FitScores, InspectDataset, InspectModel

__all__ = ["KINDS", "Prepared", "WorkKind", "kind_of"]

#: By the prefix of the record's id.
KINDS: dict[str, type[WorkKind]] = {
    "ds": InspectDataset,
    "mdl": InspectModel,
    "job": Calibrate,
    "bat": Predict,
    "shd": PredictShard,
    "cal": FitScores,
    "msg": Deliver,
}


def kind_of(claim: Claim) -> type[WorkKind]:
    """The kind of the claimed work; raises KeyError where this release knows none."""
    return Plan if claim.kind == PLAN else KINDS[claim.record_id.partition("_")[0]]
