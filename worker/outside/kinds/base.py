"""What every kind of claimed work has in common; it knows no kind of record.

Everything is written in transactions that first prove that the claim still holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.repositories import Claim
from service.registry.unit_of_work import Registry, UnitOfWork
from worker.sandbox.process import Limits
from worker.settings import WorkerSettings, inspection_limits

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the child is given.

    Attributes:
        spec: what is to be done: the sender's words and an earlier child's findings stand in it, but no path.
        inputs: the files that the child may read, by the places in `spec` where its step looks for them.
        most_checkpoint_bytes: how large a checkpoint of it may be.
    """

    spec: Json
    limits: Limits
    inputs: Mapping[str, str] = field(default_factory=dict)
    most_checkpoint_bytes: int = 0


class WorkKind(ABC):
    """One piece of claimed work.

    Attributes:
        keep: given every checkpoint that the child says it has saved.
    """

    name: ClassVar[str]

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        self.registry = registry
        self.settings = settings
        self.claim = claim
        self.record_id = claim.record_id
        self._held = ExitStack()
        self._inputs: dict[str, str] = {}
        self.keep: Callable[[Json], None] = lambda entry: None

    @abstractmethod
    def begin(self) -> Prepared | None:
        """Note that the work has begun and say what the child needs; None if it is settled or blocked already."""

    @abstractmethod
    def succeeded(self, result: Json, folder: Path) -> None:
        """Publish the child's result and its files."""

    @abstractmethod
    def failed(self, error: Json) -> None:
        """Publish why there is no result."""

    def note(self, event: Json) -> None:
        """Take an event of the child; what is to be written waits for the next heartbeat."""

    @property
    def reached(self) -> float:
        """The share of the whole that the child says is done."""
        return 0.0

    def tell(self, unit: UnitOfWork) -> None:
        """Write now what the child has told of, but for its progress."""

    def beat(self, unit: UnitOfWork) -> bool:
        """Write what was noted; return whether the work should be cancelled."""
        return False

    def cancelled(self, unit: UnitOfWork) -> None:
        """The child was stopped because of a cancellation."""

    def handed_back(self, unit: UnitOfWork, reason: str, *, after_seconds: float = 0.0) -> None:
        """Another worker, or this one later, is to do it; this was no attempt."""
        unit.work.hand_back(self.claim, after_seconds=after_seconds)
        unit.wait_again(self.record_id, reason)

    def lost(self, unit: UnitOfWork, reason: str) -> None:
        """The child has ended without a word; the work is tried again."""
        unit.work.lose(self.claim, reason)
        unit.wait_again(self.record_id, reason)

    @contextmanager
    def publishing(self) -> Iterator[UnitOfWork]:
        """A transaction that ends this work; raises LeaseLost, writing nothing, if the claim no longer holds."""
        with self.registry.write() as unit:
            unit.work.finish(self.claim)
            yield unit

    def staged(self, path: Path) -> StagedFile:
        """A file of the child's, copied to the storage's disk before any transaction begins."""
        return self.registry.artifacts.stage_file(path)

    def give(self, place: str, digest: str | None) -> None:
        """Let the child read a stored file, which stays there until `close`.

        Args:
            place: where its step looks for it in the order, `"model.file"` for `spec["model"]["file"]`.
        """
        assert digest is not None
        self._inputs[place] = str(self._held.enter_context(self.registry.artifacts.held(digest)))

    def order(self, spec: Json, limits: Limits, *, most_checkpoint_bytes: int = 0) -> Prepared:
        """What the child is given: this, and the files that it was let read."""
        return Prepared(spec, limits, dict(self._inputs), most_checkpoint_bytes)

    def close(self) -> None:
        """The attempt is over."""
        self._held.close()

    def inspection_limits(self, size: int) -> Limits:
        """What a child may use that opens an upload of this size."""
        return inspection_limits(self.settings, size)


def answerable(record: BaseModel) -> None:
    """Raise where a child's findings make no record that can be answered: every list would break at it.

    Building the record raises, too, for a field that is there twice or is not what it should be.
    """
    record.model_dump_json()


def ready(unit: UnitOfWork, model_id: str, dataset_id: str) -> tuple[tables.Model, tables.Dataset] | Json | None:
    """The model and dataset if both are ready, the error to fail with, or None while one is being inspected."""
    model, dataset = unit.models.find(model_id), unit.datasets.find(dataset_id)
    for noun, row in (("model", model), ("dataset", dataset)):
        if row is None:
            return {"code": f"{noun}_deleted", "message": f"the {noun} was deleted", "user_error": True}
        if row.status == "rejected":
            return _rejected(noun, row.id, row.error or {})
        if row.status != "ready":
            return None
    assert model is not None
    assert dataset is not None
    return model, dataset


def _rejected(noun: str, record_id: str, error: Json) -> Json:
    """What its rejection makes of a job or batch: whose fault the one is, the other is."""
    message = f"the {noun} {record_id} was rejected by inspection: {error.get('message', '')}"
    return {"code": f"{noun}_rejected", "message": message, "user_error": error.get("user_error", True)}
