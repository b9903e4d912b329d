"""The tables of the registry; `service.registry.repositories` queries them."""

from service.registry.tables.bookkeeping import Evaluation, IdempotencyKey, PublishedVersion, UnloadedName
from service.registry.tables.columns import KEEPS_FILE, Base, Digest, Json, UtcDateTime, digest_columns
from service.registry.tables.records import Batch, Calibrator, Dataset, Event, Job, Model, Upload
from service.registry.tables.work import Checkpoint, Delivery, Work, WorkerProcess

__all__ = [
    "KEEPS_FILE",
    "Base",
    "Batch",
    "Calibrator",
    "Checkpoint",
    "Dataset",
    "Delivery",
    "Digest",
    "Evaluation",
    "Event",
    "IdempotencyKey",
    "Job",
    "Json",
    "Model",
    "PublishedVersion",
    "UnloadedName",
    "Upload",
    "UtcDateTime",
    "Work",
    "WorkerProcess",
    "digest_columns",
]
