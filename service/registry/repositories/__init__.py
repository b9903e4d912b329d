"""The repositories: all SQL of the registry, one class per kind of record, over the session of a unit of work."""

from service.registry.repositories.checkpoints import Checkpoints
from service.registry.repositories.deliveries import Deliveries
from service.registry.repositories.evaluation_ledger import EvaluationLedger
from service.registry.repositories.events import Events
from service.registry.repositories.idempotency_keys import IdempotencyKeys
from service.registry.repositories.names import Names
from service.registry.repositories.records import Batches, Calibrators, Datasets, Jobs, Models
from service.registry.repositories.uploads import Uploads
from service.registry.repositories.work import Claim, WakeUp, WorkQueue
from service.registry.repositories.workers import Workers

__all__ = [
    "Batches",
    "Calibrators",
    "Checkpoints",
    "Claim",
    "Datasets",
    "Deliveries",
    "EvaluationLedger",
    "Events",
    "IdempotencyKeys",
    "Jobs",
    "Models",
    "Names",
    "Uploads",
    "WakeUp",
    "WorkQueue",
    "Workers",
]
