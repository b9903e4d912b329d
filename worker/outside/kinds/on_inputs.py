"""Work on a stored model and a stored dataset: it waits while they are inspected, and tells how far it is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from service.registry import tables
from service.registry.contract import NEEDS_PROVENANCE, PROVENANCE_NEEDED, UNLABELLED, RecordError, needs_labels
from service.registry.documents import JsonObject, Progress
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim
from worker.documents import ChildEvent
from worker.outside.kinds.base import ChildWork, Prepared, R
from worker.settings import WorkerSettings


class OnInputs(ChildWork[R]):
    """A job or a batch.

    Attributes:
        progress: what the child has told last.
        fits: whether the dataset must have labels.
    """

    fits: ClassVar[bool] = False

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self.progress: Progress | None = None

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what was cancelled or cannot run."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            row = self.row(unit)
            if row.status == "cancelling":
                self.cancelled(unit)
                return None
            model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
            for noun, found in (("model", model), ("dataset", dataset)):
                if (error := obstacle(noun, found, fits=self.fits)) is not None:
                    unit.work.finish(self.claim)
                    self.fail(unit, error)
                    return None
                if found is not None and found.status != "ready":
                    unit.work.block(self.claim)
                    return None
            assert model is not None
            assert dataset is not None
            self.start(unit, dataset)
        return self.prepare(row, model, dataset)

    @abstractmethod
    def row(self, unit: UnitOfWork) -> tables.Job | tables.Batch:
        """The record."""

    @abstractmethod
    def start(self, unit: UnitOfWork, dataset: tables.Dataset) -> None:
        """Write that it runs, and read what the child must know."""

    @abstractmethod
    def prepare(self, row: tables.Job | tables.Batch, model: tables.Model, dataset: tables.Dataset) -> Prepared | None:
        """The request to a child; None where the work has been left to others."""

    def note(self, event: JsonObject) -> None:
        """Remember what the child tells; what it cannot have told is passed over."""
        if (told := ChildEvent.parse(event)) is not None:
            self.progress = told.progress or self.progress
            self.take(told)

    def take(self, told: ChildEvent) -> None:
        """Remember what is not progress."""


def obstacle(noun: str, row: tables.Model | tables.Dataset | None, *, fits: bool) -> RecordError | None:
    """Why nothing can be done with this input; the fault of a rejection is whose the rejection was."""
    if row is None:
        return RecordError(code=f"{noun}_deleted", message=f"the {noun} was deleted")
    if fits and isinstance(row, tables.Dataset) and not row.labelled:
        return RecordError(code=UNLABELLED, message=needs_labels(row.id))
    if fits and isinstance(row, tables.Dataset) and row.lacks_provenance:
        return RecordError(code=PROVENANCE_NEEDED, message=f"{row.id}: {NEEDS_PROVENANCE}")
    if row.status != "rejected":
        return None
    error = row.error or {}
    message = f"the {noun} {row.id} was rejected by inspection: {error.get('message', '')}"
    return RecordError(code=f"{noun}_rejected", message=message, user_error=bool(error.get("user_error", True)))
