"""A kind of work: what every kind has in common; everything is written in transactions that first prove the claim."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel

from fedlas.contract.base import Document, JsonObject
from fedlas.contract.events import Progress
from fedlas.contract.problems import NEEDS_PROVENANCE, PROVENANCE_NEEDED, UNLABELLED, needs_labels
from fedlas.contract.records import RecordError
from fedlas.contract.report import Report
from service.process_memory import names_lack_of_memory
from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim
from service.registry.settings import WorkerSettings
from worker.documents import ChildEvent, Reply, Result, SavedCheckpoint, WorkOrder
from worker.outside.cards import CARD_FAILED
from worker.sandbox.process import ChildOutcome
from worker.sandbox.protocol import ChildRequest, Limits

_LOG = logging.getLogger("fedlas.worker")

_OUT_OF_MEMORY = "out_of_memory"
#: The end by a signal that no process sends to itself, for example of the kernel when memory runs out.
KILLED = "signal 9"
KILLED_FOR_MEMORY = f"{KILLED}, as the memory of this machine or container ran out: give it more, or run less at a time"
#: A report of a thousand classes has less than one mebibyte.
_MAX_REPORT_BYTES = 64 * 1024**2

R = TypeVar("R", bound=Result)
#: The request to the child; no path stands in the order.
Prepared = ChildRequest[WorkOrder]


class WorkKind(ABC):
    """One piece of claimed work of some kind.

    Attributes:
        keep: given every checkpoint that the child says it has saved.
        hurry: called where what is noted should not wait for the next heartbeat.
        ask: called where the child waits for a reply.
        worker, show: the name of who may claim more while the child runs, empty for nobody, and how it shows a claim.
        most_checkpoint_bytes: how large a checkpoint may be; 0 where none is saved.
    """

    most_checkpoint_bytes = 0

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        self.registry = registry
        self.settings = settings
        self.claim = claim
        self.record_id = claim.record_id
        self._held = ExitStack()
        self.keep: Callable[[SavedCheckpoint], None] = lambda entry: None
        self.hurry: Callable[[], None] = lambda: None
        self.ask: Callable[[], None] = lambda: None
        self.worker = ""
        self.show: Callable[[Claim], None] = lambda claim: None

    @abstractmethod
    def begin(self) -> Prepared | None:
        """Note that the work has begun and prepare the child; None if the work is settled or blocked already."""

    @abstractmethod
    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """Write why there is no result."""

    def succeeded(self, answer: JsonObject, folder: Path) -> None:
        raise NotImplementedError("there is no child")

    def failed(self, error: RecordError) -> None:
        with self.publishing() as unit:
            self.fail(unit, error)

    def note(self, event: JsonObject) -> None:
        """Take an event of the child; what has to be written waits for the next heartbeat."""

    def save_checkpoint(self, unit: UnitOfWork, name: str, file: StagedFile) -> list[str]:
        """Keep a checkpoint in a transaction that proves the claim; returns files it replaces, raises OSError."""
        raise OSError("this work keeps no checkpoints")

    def reply(self) -> Reply:
        """Answer to a child that asks."""
        raise NotImplementedError("this work's child asks for nothing")

    def log_done(self, seconds: float) -> None:
        _LOG.info("%s done in %.1f s", self.claim, seconds)

    def renew(self, unit: UnitOfWork, *, lease_seconds: float) -> None:
        """Renew what is held; raises LeaseLost where the work may not go on."""
        unit.work.renew(self.claim, lease_seconds=lease_seconds)

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

    def stored(self, digest: str | None) -> str:
        """The path of a stored file for the child, which stays where it is until `close`."""
        assert digest is not None
        return str(self._held.enter_context(self.registry.artifacts.held(digest)))

    def close(self) -> None:
        self._held.close()


class ChildWork(WorkKind, Generic[R]):
    """Work that a child does.

    Attributes:
        result: what the child ends with.
    """

    result: type[R]

    @abstractmethod
    def publish(self, unit: UnitOfWork, result: R, files: Mapping[str, StagedFile]) -> BaseModel:
        """Write what the child found and keep its files, which go by the fields of its result; return the record."""

    def report_kind(self, result: R) -> type[Document]:
        """The shape of the report that comes with a result."""
        return Report

    def succeeded(self, answer: JsonObject, folder: Path) -> None:
        """Publish the child's result and its files.

        Raises:
            ValueError: the result is not what this kind of work ends with, its report is none, or its record cannot be
                answered to a client, so that every list that holds it would fail. Nothing is written.
        """
        result = self.result.arrived(answer)
        names = result.files()
        if "report" in names:
            report = folder / names["report"]
            if (size := report.stat().st_size) > _MAX_REPORT_BYTES:
                raise ValueError(f"the child's report has {size} bytes")
            self.report_kind(result).arrived_json(report.read_bytes())
        with ExitStack() as stack:
            # Copied to the storage's disk before the transaction begins.
            stage = self.registry.artifacts.stage_file
            files = {name: stack.enter_context(stage(folder / file)) for name, file in names.items()}
            self.publish(stack.enter_context(self.publishing()), result, files).model_dump_json()


def log_started(claim: Claim) -> None:
    _LOG.info("%s started (attempt %d)", claim, claim.attempts)


def given_up(claim: Claim, most_attempts: int) -> RecordError | None:
    """Error of work that must not be tried again, or None."""
    if len(claim.losses) < most_attempts:
        return None
    reasons = "; ".join(dict.fromkeys(claim.losses))
    message = f"given up: its process was lost {len(claim.losses)} times without getting further ({reasons})"
    return RecordError(code="poisoned", message=message, user_error=False)


def lasting_error(outcome: ChildOutcome, limits: Limits, *, unfit: str | None = None) -> RecordError | None:
    """The reason of a missing result that the next attempt would meet again; None if it may be tried again.

    Args:
        unfit: why the worker cannot even open its own sample; then a crash is not the fault of a file.
    """
    error, crashed = outcome.error, outcome.died is not None and not outcome.died.startswith((KILLED, "signal 15"))
    # A library that lacks memory may raise anything: then the log has its words.
    lacked = (error is not None and error.code == _OUT_OF_MEMORY) or (
        (crashed if error is None else error.code == "internal_error") and names_lack_of_memory(outcome.log)
    )
    if error is not None and error.code != CARD_FAILED and not lacked:
        return RecordError(**error.model_dump())
    if crashed and outcome.loaded is None:
        last = "".join(outcome.log.strip().splitlines()[-1:]).removeprefix("| ")
        unfit = (
            f"the worker cannot load PyTorch and its other libraries, so nothing was opened ({outcome.died}"
            f"{f': {last}' if last else ''}); `fedlas doctor` on its machine says more"
        )
    elif outcome.died == "timeout":
        message = f"it was ended by force after {limits.seconds:.0f} s"
        return RecordError(code="timeout", message=message, user_error=False)
    if unfit is not None and (crashed or error is not None):
        return RecordError(code="worker_unfit", message=unfit, user_error=False)
    if not lacked:
        return None
    message = (
        "it took more memory than the worker's machine has left: give it more, or run fewer jobs at once"
        if limits.memory is None
        else f"opening this file took more memory than is allowed, {limits.memory / 1e6:,.0f} MB beside the worker's "
        "libraries; its operator may raise FEDLAS_INSPECTION_BASE_BYTES and FEDLAS_INSPECTION_MEMORY_BYTES"
    )
    return RecordError(code=_OUT_OF_MEMORY, message=message, user_error=limits.memory is not None)


class OnInputs(ChildWork[R]):
    """A job or a batch.

    Attributes:
        progress: the child's last report.
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
            for noun, upload in (("model", model), ("dataset", dataset)):
                if (error := obstacle(noun, upload, fits=self.fits)) is not None:
                    unit.work.finish(self.claim)
                    self.fail(unit, error)
                    return None
                if upload is not None and upload.status != "ready":
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
        """Keep what the child reports; an impossible report is passed over."""
        if (told := ChildEvent.parse(event)) is not None:
            self.progress = told.progress or self.progress
            self.take(told)

    def take(self, told: ChildEvent) -> None:
        """Remember what is not progress."""


def obstacle(noun: str, row: tables.Model | tables.Dataset | None, *, fits: bool) -> RecordError | None:
    """Error of an input that cannot be used; the fault of a rejection is whose the rejection was."""
    if row is None:
        return RecordError(code=f"{noun}_deleted", message=f"the {noun} was deleted")
    if fits and isinstance(row, tables.Dataset) and not row.labelled:
        return RecordError(code=UNLABELLED, message=needs_labels(row.id, row.columns))
    if fits and isinstance(row, tables.Dataset) and row.lacks_provenance:
        return RecordError(code=PROVENANCE_NEEDED, message=f"{row.id}: {NEEDS_PROVENANCE}")
    if row.status != "rejected":
        return None
    error = row.error or {}
    message = f"the {noun} {row.id} was rejected by inspection: {error.get('message', '')}"
    return RecordError(code=f"{noun}_rejected", message=message, user_error=bool(error.get("user_error", True)))
