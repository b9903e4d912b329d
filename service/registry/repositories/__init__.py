"""The repositories: all SQL of the registry, one class per kind of record, over the session of a unit of work."""

from service.registry.repositories.deliveries import Deliveries
from service.registry.repositories.idempotency_keys import IdempotencyKeys
from service.registry.repositories.job_history import Checkpoints, EvaluationLedger, Events
from service.registry.repositories.jobs import Batches, Calibrators, Jobs
from service.registry.repositories.names import Names
from service.registry.repositories.records import AfterCommit, Datasets, Models, Uploads, WakeUp
from service.registry.repositories.work import Claim, WorkQueue
from service.registry.repositories.workers import Workers

__all__ = [
    "AfterCommit",
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
