"""Jobs: what a calibration and its dry run share: one row, one progress, and one child that reads both inputs."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import ClassVar

from service.registry import tables
from service.registry.contract import JobRequest, RecordError
from service.registry.documents import ModelProfile
from service.registry.errors import NotFound
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.settings import GIBIBYTE
from service.registry.unit_of_work import UnitOfWork
from worker.documents import CalibrateOrder, ChildEvent, ModelOptions, OrderedDataset, OrderedModel, PlanOrder
from worker.outside.kinds.base import JsonObject, Prepared, WorkKind, inputs_of
from worker.sandbox.protocol import Limits
from worker.settings import WorkerSettings

#: The webhook's secret and the sender's own words are no part of what a child has to do.
_WITHHELD = {"webhook", "metadata"}
#: A race has at most a thousand candidates; further ones that a child reports are dropped.
_MOST_CANDIDATES = 1100
#: The outputs of a candidate on the calibration rows, and its network with its optimiser.
_CHECKPOINT_BYTES, _COPIES = 2 * GIBIBYTE, 6
#: Progress is an event when it has grown by so much, or another candidate runs: jobs may take days.
_NEWS = 0.01


class JobKind(WorkKind):
    """A job of either kind."""

    order: ClassVar[type[CalibrateOrder | PlanOrder]]

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._stage = "inspecting"
        self._progress: JsonObject = {}
        self._written_progress: JsonObject = {}
        self._candidates: deque[JsonObject] = deque()
        self._num_candidates = 0
        self._lock = threading.Lock()

    @abstractmethod
    def looks_before(self, unit: UnitOfWork, row: tables.Job, dataset: tables.Dataset) -> int:
        """How often the test rows of this file have been looked at before this job."""

    @abstractmethod
    def limits(self, row: tables.Job) -> Limits:
        """What the child may use."""

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what was cancelled or cannot run."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            row = unit.jobs.get(self.record_id)
            if row.status == "cancelling":
                self.cancelled(unit)
                return None
            inputs = inputs_of(unit, row.model_id, row.dataset_id)
            if inputs is None:
                unit.work.block(self.claim)
                return None
            if isinstance(inputs, RecordError):
                unit.work.finish(self.claim)
                unit.jobs.fail(row, inputs.model_dump())
                return None
            if row.status != "running":
                unit.jobs.change_status(row, "running")
            unit.jobs.update_progress(row, "inspecting", row.progress or {"fraction": 0.0})
            looks_before = self.looks_before(unit, row, inputs[1])
            saved = unit.checkpoints.of(row.id)
        order = self._order(row, *inputs, looks_before)
        self._give_saved(saved)
        most_bytes = _CHECKPOINT_BYTES + _COPIES * inputs[0].bytes
        return self.prepared(order, self.limits(row), most_checkpoint_bytes=most_bytes)

    def _order(
        self, row: tables.Job, model: tables.Model, dataset: tables.Dataset, looks_before: int
    ) -> CalibrateOrder | PlanOrder:
        self.give("model", model.sha256)
        self.give("dataset", dataset.prepared_sha256)
        assert dataset.prepared_sha256 is not None
        profile = ModelProfile.read(model.profile)
        return self.order(
            job_id=row.id,
            request=_without_withheld(row.request),
            model=OrderedModel(
                id=model.id, sha256=model.sha256, options=import_options(model, profile), profile=profile
            ),
            dataset=OrderedDataset(id=dataset.id, sha256=dataset.sha256, prepared_sha256=dataset.prepared_sha256),
            looks_before=looks_before,
            checkpoint_seconds=self.settings.checkpoint_seconds,
        )

    def _give_saved(self, saved: Mapping[str, str]) -> None:
        """What earlier attempts have saved; an entry whose file is lost is only trained again."""
        for name, digest in saved.items():
            with suppress(NotFound):
                self.give(f"checkpoint.{name}", digest)

    def note(self, event: JsonObject) -> None:
        """Remember stage, progress and candidates, and pass checkpoints on."""
        told = ChildEvent.parse(event)
        if told is None:
            return
        self._stage = told.stage or self._stage
        if told.progress is not None:
            self._progress = told.progress.model_dump()
        if told.event is not None and self._num_candidates < _MOST_CANDIDATES:
            self._num_candidates += 1
            with self._lock:
                self._candidates.append(told.event.data.stored())
        if told.checkpoint is not None:
            self.keep(told.checkpoint)

    @property
    def reached(self) -> float:
        """The share that is done."""
        fraction = self._progress.get("fraction")
        return fraction if isinstance(fraction, float) else 0.0

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write stage, progress and events."""
        row = unit.jobs.get(self.record_id)
        if row.status == "cancelling":
            return True
        self.write_events(unit)
        if progress := self._progress:
            unit.jobs.update_progress(row, self._stage, progress)
            if _is_news(progress, self._written_progress):
                unit.events.add(row.id, "progress", progress)
                unit.callbacks.append(lambda committed: self._progress_written(progress) if committed else None)
        return False

    def write_events(self, unit: UnitOfWork) -> None:
        """Write which candidates have ended, each once, also where a transaction fails or two threads call at once.

        A candidate leaves the list before it is written, and no lock outlives this call: a second transaction, which
        waits for the first one's row lock on the claim, finds only what came later.
        """
        with self._lock:
            taken, self._candidates = self._candidates, deque()
        for candidate in taken:
            unit.events.add(self.record_id, "candidate", candidate)
        unit.callbacks.append(lambda committed: None if committed else self._put_back(taken))

    def _put_back(self, candidates: Iterable[JsonObject]) -> None:
        """The transaction that was to write them has failed: the next one writes them."""
        with self._lock:
            self._candidates = deque([*candidates, *self._candidates])

    def _progress_written(self, progress: JsonObject) -> None:
        self._written_progress = progress

    def failed(self, error: RecordError) -> None:
        """The job ends without a result."""
        with self.publishing() as unit:
            unit.jobs.fail(unit.jobs.get(self.record_id), error.model_dump())

    def cancelled(self, unit: UnitOfWork) -> None:
        """The job ends because its cancellation was asked for."""
        unit.work.finish(self.claim)
        unit.jobs.change_status(unit.jobs.get(self.record_id), "cancelled")


def _is_news(progress: JsonObject, written: JsonObject) -> bool:
    grown = _fraction(progress, 0.0) - _fraction(written, -1.0) >= _NEWS
    return grown or progress.get("candidate") != written.get("candidate")


def _fraction(progress: JsonObject, default: float) -> float:
    fraction = progress.get("fraction")
    return fraction if isinstance(fraction, float) else default


def _without_withheld(request: Mapping[str, object]) -> JobRequest:
    """What the child is to do; a job that was ordered before an upgrade gets today's defaults."""
    return JobRequest.read({name: value for name, value in request.items() if name not in _WITHHELD})


def import_options(model: tables.Model, profile: ModelProfile) -> ModelOptions:
    """How the importer is to understand the model's file."""
    options = ModelOptions.model_validate(model.options)
    if model.origin != "calibrated":
        return options
    # A file of ours: its calibrated output is the one that counts.
    return options.model_copy(update={"output": "probabilities", "task": profile.task})
