"""A kind of work: what every kind has in common; everything is written in transactions that first prove the claim."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, JsonValue

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import RecordError
from service.registry.documents import Report
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.unit_of_work import UnitOfWork
from worker.documents import SavedCheckpoint, WorkOrder
from worker.sandbox.protocol import Limits
from worker.settings import WorkerSettings

JsonObject = dict[str, JsonValue]

#: A report of a thousand classes has less than one mebibyte.
_MOST_REPORT_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the child is given.

    Attributes:
        order: what is to be done; no path stands in it.
        files: the files that the child may read, by the names that its function knows.
        most_checkpoint_bytes: how large a checkpoint of it may be.
    """

    order: WorkOrder
    limits: Limits
    files: Mapping[str, str] = field(default_factory=dict)
    most_checkpoint_bytes: int = 0


class WorkKind(ABC):
    """One piece of claimed work of some kind.

    Attributes:
        keep: given every checkpoint that the child says it has saved.
    """

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        self.registry = registry
        self.settings = settings
        self.claim = claim
        self.record_id = claim.record_id
        self._held = ExitStack()
        self._files: dict[str, str] = {}
        self.keep: Callable[[SavedCheckpoint], None] = lambda entry: None

    @abstractmethod
    def begin(self) -> Prepared | None:
        """Note that the work has begun and prepare the child; None if the work is settled or blocked already."""

    @abstractmethod
    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Publish the child's result and its files.

        Raises:
            ValidationError: the result is not what this kind of work ends with; nothing is written.
        """

    @abstractmethod
    def failed(self, error: RecordError) -> None:
        """Publish why there is no result."""

    def note(self, event: JsonObject) -> None:
        """Take an event of the child; what has to be written waits for the next heartbeat."""

    @property
    def reached(self) -> float:
        """The share of the whole that is done, by the child's account."""
        return 0.0

    def write_events(self, unit: UnitOfWork) -> None:
        """Write the events of the child that are not written yet, except its progress."""

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write what was noted; return whether the work should be cancelled."""
        return False

    def cancelled(self, unit: UnitOfWork) -> None:
        """The child was stopped because of a cancellation."""

    def handed_back(self, unit: UnitOfWork, reason: str, *, after_seconds: float = 0.0) -> None:
        """Another worker, or this one later, does the work; this was no attempt."""
        unit.work.release(self.claim, after_seconds=after_seconds)
        unit.requeue(self.record_id, reason)

    def lost(self, unit: UnitOfWork, reason: str) -> None:
        """The child has ended without an answer; the work is tried again."""
        unit.work.retry(self.claim, reason)
        unit.requeue(self.record_id, reason)

    @contextmanager
    def publishing(self) -> Iterator[UnitOfWork]:
        """A transaction that ends this work; raises LeaseLost, writing nothing, if the claim no longer holds."""
        with self.registry.write() as unit:
            unit.work.finish(self.claim)
            yield unit

    def staged(self, path: Path) -> StagedFile:
        """A file of the child's, copied to the storage's disk before any transaction begins."""
        return self.registry.artifacts.stage_file(path)

    def give(self, name: str, digest: str | None) -> None:
        """Let the child read a stored file by this name; the file stays where it is until `close`."""
        assert digest is not None
        self._files[name] = str(self._held.enter_context(self.registry.artifacts.held(digest)))

    def prepared(self, order: WorkOrder, limits: Limits, *, most_checkpoint_bytes: int = 0) -> Prepared:
        """What the child is given: this order, and the files given so far."""
        return Prepared(order, limits, dict(self._files), most_checkpoint_bytes)

    def close(self) -> None:
        """The attempt is over."""
        self._held.close()


def check_report(path: Path) -> None:
    """Raise ValueError where the child's file is no report, or larger than any."""
    if (size := path.stat().st_size) > _MOST_REPORT_BYTES:
        raise ValueError(f"the child's report has {size} bytes")
    Report.model_validate_json(path.read_bytes())


def require_answerable(record: BaseModel) -> None:
    """Raise where a record cannot be answered to a client, since every list that holds it would fail.

    Building the record raises, too, for a field that is there twice or is not what it should be.
    """
    record.model_dump_json()


def inputs_of(
    unit: UnitOfWork, model_id: str, dataset_id: str
) -> tuple[tables.Model, tables.Dataset] | RecordError | None:
    """The model and dataset if both are ready, the error to fail with, or None while one is being inspected."""
    model, dataset = unit.models.find(model_id), unit.datasets.find(dataset_id)
    for noun, row in (("model", model), ("dataset", dataset)):
        if row is None:
            return RecordError(code=f"{noun}_deleted", message=f"the {noun} was deleted")
        if row.status == "rejected":
            return _rejected(noun, row.id, row.error or {})
        if row.status != "ready":
            return None
    assert model is not None
    assert dataset is not None
    return model, dataset


def _rejected(noun: str, record_id: str, error: Mapping[str, JsonValue]) -> RecordError:
    """The error of a job or batch whose input was rejected: the fault is whose the rejection was."""
    message = f"the {noun} {record_id} was rejected by inspection: {error.get('message', '')}"
    return RecordError(code=f"{noun}_rejected", message=message, user_error=bool(error.get("user_error", True)))
