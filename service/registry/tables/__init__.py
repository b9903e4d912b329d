"""The tables of the registry; `service.registry.repositories` queries them."""

from service.registry.tables.bookkeeping import (
    BrowserSession,
    Evaluation,
    IdempotencyKey,
    PublishedVersion,
    UnloadedName,
)
from service.registry.tables.columns import (
    KEEPS_FILE,
    Base,
    Digest,
    Entity,
    Json,
    Record,
    UtcDateTime,
    digest_columns,
    new_id,
    now,
)
from service.registry.tables.records import Batch, Calibrator, Dataset, Event, Job, JobMetadata, Model, Run, Upload
from service.registry.tables.work import Checkpoint, Delivery, Piece, Work, WorkerProcess

__all__ = [
    "KEEPS_FILE",
    "Base",
    "Batch",
    "BrowserSession",
    "Calibrator",
    "Checkpoint",
    "Dataset",
    "Delivery",
    "Digest",
    "Entity",
    "Evaluation",
    "Event",
    "IdempotencyKey",
    "Job",
    "JobMetadata",
    "Json",
    "Model",
    "Piece",
    "PublishedVersion",
    "Record",
    "Run",
    "UnloadedName",
    "Upload",
    "UtcDateTime",
    "Work",
    "WorkerProcess",
    "digest_columns",
    "new_id",
    "now",
]
