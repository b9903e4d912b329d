"""Jobs: calibrations and their dry runs, which share one row, one progress, and one child that reads both inputs."""

from __future__ import annotations

import math
import secrets
import threading
import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import groupby
from typing import ClassVar, Literal, TypeAlias, get_args

from pydantic import BaseModel

from fedlas.contract.base import JsonObject
from fedlas.contract.events import Event, Progress, Publication, ReportedEvent, StageChanged, StageEvent, WarningEvent
from fedlas.contract.options import ModelOptions
from fedlas.contract.profiles import ModelProfile, Notice
from fedlas.contract.records import RecordError
from fedlas.contract.requests import JobRequest
from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.errors import NotFound
from service.registry.presenters import job_record, model_record
from service.registry.queues import ANY_DEVICE
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim
from service.registry.settings import GIBIBYTE, WorkerSettings
from service.registry.tables import new_id, now
from worker.documents import ChildEvent, JobOrder, JobResult, OrderedDataset, OrderedModel, PlanResult
from worker.outside.cards import CARD_TOO_SMALL
from worker.outside.kinds.base import OnInputs, Prepared, R
from worker.sandbox.protocol import Limits

ToldEvent: TypeAlias = StageEvent | ReportedEvent

_KINDS: dict[str, type[Event]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in (StageEvent, *get_args(get_args(ReportedEvent)[0]))
}
#: Types that an earlier attempt may have reported.
REPEATED = tuple(name for name, kind in _KINDS.items() if kind.IDENTITY)
#: Events that change the job's record, too.
_OF_RECORDS = (StageEvent, WarningEvent)
Identity: TypeAlias = "tuple[object, ...]"
#: The webhook's secret and the sender's metadata are no part of what a child has to do.
_WITHHELD = {"webhook", "metadata"}
#: The outputs of a candidate on the calibration rows, and its network with its optimiser.
_CHECKPOINT_BYTES = 2 * GIBIBYTE
_COPIES = 6
_ROW_KEY_BYTES = 16
#: A race has at most a thousand candidates, and few other entries of its own.
_MAX_ENTRIES = 1100
#: Progress is an event when it has grown by so much, another candidate runs, or the last was so many seconds ago.
_NEWS = 0.01
_NEWS_S = 6.0
_UNDETERMINED = (
    "nothing was fitted and nothing is judged, since it is unknown which rows the model was trained on: send the "
    "dataset again with seen_by_model=no, or with a column split"
)


class ToldEvents:
    """Queued by the thread that reads a child's events, written by those that renew its lease and keep its checkpoints.

    An event leaves the queue before it is written, and no lock outlives a call: a second transaction, which waits for
    the first one's row lock on the claim, finds only what came later.
    """

    def __init__(self) -> None:
        self._waiting: deque[ToldEvent] = deque()
        self._told: Counter[str] = Counter()
        self._known: set[Identity] = set()
        self._lock = threading.Lock()

    def know(self, written: Iterable[tables.Event]) -> None:
        with self._lock:
            for event in written:
                self._is_new(event.type, event.data)

    def take(self, event: ToldEvent) -> bool:
        """Queue an event; False where it is known or one too many."""
        with self._lock:
            if new := self._is_new(event.type, event.data.model_dump()):
                self._waiting.append(event)
        return new

    def _is_new(self, type: str, data: JsonObject) -> bool:
        if fields := _KINDS[type].IDENTITY:
            identity = (type, *(data.get(name) for name in fields))
            if identity in self._known:
                return False
            self._known.add(identity)
        self._told[type] += 1
        return self._told[type] <= _KINDS[type].MAX_PER_JOB

    def write(self, unit: UnitOfWork, job_id: str) -> None:
        """Write all that waits; where the transaction fails, the next one does."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        for special, events in groupby(taken, lambda event: event if isinstance(event, _OF_RECORDS) else None):
            match special:
                case StageEvent():
                    unit.jobs.enter_stage(unit.jobs.get(job_id), special.data.stage)
                case WarningEvent():
                    unit.jobs.add_warning(unit.jobs.get(job_id), special.data.stored())
                case None:  # a fast race tells of hundreds a second
                    unit.events.extend(job_id, [(event.type, event.data.stored()) for event in events])
        unit.callbacks.append(lambda committed: None if committed else self._put_back(taken))

    def _put_back(self, events: Iterable[ToldEvent]) -> None:
        with self._lock:
            self._waiting = deque([*events, *self._waiting])


class JobKind(OnInputs[R]):
    fits = True
    kind: ClassVar[Literal["calibrate", "plan"]]

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._written_progress = Progress(fraction=0.0)
        self._written_at = -math.inf
        self._told = ToldEvents()
        self._looks_before = 0
        self._checkpoints: Mapping[str, str] = {}
        self._row_key = secrets.token_hex(_ROW_KEY_BYTES)

    @abstractmethod
    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """How often the test rows of this file have been looked at before this job."""

    @abstractmethod
    def limits(self, request: JobRequest) -> Limits:
        """Limits of the child."""

    def row(self, unit: UnitOfWork) -> tables.Job:
        return unit.jobs.get(self.record_id)

    def start(self, unit: UnitOfWork, dataset: tables.Dataset) -> None:
        row = self.row(unit)
        if row.status != "running":
            unit.jobs.change_status(row, "running")
        unit.jobs.enter_stage(row, "inspecting")
        row.progress = row.progress or {"fraction": 0.0}
        self._told.know(unit.events.of_types(self.record_id, REPEATED))
        match dataset.profile:
            case {"warnings": list(sentences)}:
                for sentence in sentences:
                    unit.jobs.add_warning(row, Notice(code="dataset", message=str(sentence)).stored())
        self._looks_before = self.looks_before(unit, dataset)
        self._checkpoints = unit.checkpoints.of(self.record_id)

    def prepare(self, row: tables.Job | tables.Batch, model: tables.Model, dataset: tables.Dataset) -> Prepared:
        """The model as it was uploaded, the prepared copy, and what earlier attempts have saved."""
        assert isinstance(row, tables.Job)
        assert dataset.prepared_sha256 is not None
        profile, options = ModelProfile.read(model.profile), ModelOptions.read(model.options)
        if model.origin == "calibrated":  # a file of ours: its calibrated output is the one that counts
            options = options.model_copy(update={"output": "probabilities", "task": profile.task})
        self._row_key = model.seen_rows_key or self._row_key
        # A job that was created before an upgrade gets today's defaults.
        order = JobOrder(
            kind=self.kind,
            job_id=row.id,
            created_at=row.created_at,
            request=JobRequest.read({name: value for name, value in row.request.items() if name not in _WITHHELD}),
            model=OrderedModel(
                id=model.id,
                name=model.name,
                sha256=model.sha256,
                row_key=self._row_key,
                options=options,
                profile=profile,
            ),
            dataset=OrderedDataset(
                id=dataset.id, name=dataset.name, sha256=dataset.sha256, prepared_sha256=dataset.prepared_sha256
            ),
            looks_before=self._looks_before,
            checkpoint_seconds=self.settings.checkpoint_seconds,
        )
        files = {"model": self.stored(model.sha256), "dataset": self.stored(dataset.prepared_sha256)}
        if model.seen_rows_sha256 is not None:
            files["seen_rows"] = self.stored(model.seen_rows_sha256)
        for name, digest in self._checkpoints.items():
            with suppress(NotFound):  # an entry whose file is lost is only trained again
                files[f"checkpoint.{name}"] = self.stored(digest)
        self.most_checkpoint_bytes = _CHECKPOINT_BYTES + _COPIES * model.bytes
        return Prepared(order=order, limits=self.limits(order.request), files=files)

    def take(self, told: ChildEvent) -> None:
        """Queue stage and event, and pass checkpoints on."""
        for event in (told.stage and StageEvent(type="stage", data=StageChanged(stage=told.stage)), told.event):
            if event is not None and self._told.take(event):
                self.hurry()
        if told.checkpoint is not None:
            self.keep(told.checkpoint)

    @property
    def reached(self) -> float:
        return 0.0 if self.progress is None else self.progress.fraction

    def heartbeat(self, unit: UnitOfWork) -> bool:
        row = self.row(unit)
        if row.status == "cancelling":
            return True
        self.write_events(unit)
        self._write_progress(unit, row)
        return False

    def _write_progress(self, unit: UnitOfWork, row: tables.Job) -> None:
        """Write what the child tells, but nothing less than has been reached, with an event where that is news."""
        reached = Progress.model_validate(row.progress).fraction
        told = self.progress or Progress(fraction=reached)  # a child that starts has reported nothing yet
        progress = told.model_copy(update={"fraction": max(told.fraction, reached)})
        row.progress = progress.model_dump()
        written = self._written_progress
        news = progress.fraction - written.fraction >= _NEWS or progress.candidate != written.candidate
        if news or time.monotonic() - self._written_at >= _NEWS_S:
            unit.events.add(row.id, "progress", progress.model_dump())
            unit.callbacks.append(lambda committed: self._progress_written(progress) if committed else None)

    def write_events(self, unit: UnitOfWork) -> None:
        self._told.write(unit, self.record_id)

    def save_checkpoint(self, unit: UnitOfWork, name: str, file: StagedFile) -> list[str]:
        """Keep an entry of the journal, with all that the child reported before it saved it."""
        unit.work.verify(self.claim, reached=self.reached)
        known = unit.checkpoints.of(self.record_id)
        if name not in known and len(known) >= _MAX_ENTRIES:
            raise OSError("there are too many checkpoints")
        self.write_events(unit)
        older = unit.checkpoints.save(self.record_id, name, file.keep())
        return [] if older is None else [older]

    def _progress_written(self, progress: Progress) -> None:
        self._written_progress, self._written_at = progress, time.monotonic()

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The job ends without a result; what it has reported explains why."""
        self.write_events(unit)
        unit.jobs.fail(self.row(unit), error.model_dump())

    def cancelled(self, unit: UnitOfWork) -> None:
        unit.work.finish(self.claim)
        self.write_events(unit)
        unit.jobs.change_status(self.row(unit), "cancelled")


def published(unit: UnitOfWork, name: str, job: tables.Job, served: tables.Model) -> Publication:
    """Make the served model the first version of a new name, or the next one where the job has shown enough."""
    # A name that answers is replaced only by a significantly better model; a new name shall answer.
    when = (job.request.get("publish_when") or "significant") if unit.names.exists(name) else "always"
    if unit.names.exists(name) and (unit.models.get(unit.names.resolve(name)).profile or {}).get("scores"):
        return Publication(name=name, reason="it is the name of a calibrator of scores, which takes other requests")
    if when != "always" and job.serves != "calibrated":
        return Publication(name=name, reason=f"the uploaded model is served as it is ({job.verdict})")
    if when == "significant" and not job.significant:
        return Publication(name=name, reason="the test rows do not show it to be better than the uploaded model")
    version = unit.names.publish(name, served)
    if served.origin == "calibrated":
        served.name, served.version = name, version
    return Publication(name=name, version=version)


def calibrated(
    parent: tables.Model, job: tables.Job, profile: ModelProfile, file: StagedFile, copy: StagedFile
) -> tables.Model:
    """The record of the file that a job has made of its model; it is an ordinary model from here on."""
    return tables.Model(
        id=new_id("mdl"),
        name=parent.name,
        version=1,
        origin="calibrated",
        status="ready",
        created_at=now(),
        sha256=file.keep(),
        served_sha256=copy.keep(),
        bytes=file.size,
        options={},
        profile=profile.stored(),
        calibrated=True,
        parent_id=parent.id,
        job_id=job.id,
        seen_rows_sha256=parent.seen_rows_sha256,
        seen_rows_key=parent.seen_rows_key,
    )


class Calibrate(JobKind[JobResult]):
    result, kind = JobResult, "calibrate"

    def limits(self, request: JobRequest) -> Limits:
        return Limits(60 * request.budget.minutes + self.settings.job_grace_seconds)

    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """Take a look: the test rows will judge."""
        return unit.ledger.enter(dataset.sha256, self.record_id)

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """A job that a card's memory does not hold goes on on the CPU, of any worker; all others end."""
        row, notice = self.row(unit), Notice(code=error.code, message=f"{error.message}; the job goes on on the CPU")
        # Once: a child that says so on the CPU, too, would say so for ever.
        if error.code != CARD_TOO_SMALL or CARD_TOO_SMALL in (one["code"] for one in row.warnings):
            return super().fail(unit, error)
        self.write_events(unit)
        unit.jobs.add_warning(row, notice.stored())
        unit.work.reopen(self.record_id, queue=ANY_DEVICE)
        return unit.requeue(self.record_id, "the memory of its card is too small")

    def publish(self, unit: UnitOfWork, result: JobResult, files: Mapping[str, StagedFile]) -> BaseModel:
        self.write_events(unit)
        row = self.row(unit)
        row.report_sha256, row.diagram_sha256 = files["report"].keep(), files["diagram"].keep()
        row.page_sha256, row.predictions_sha256 = files["page"].keep(), files["predictions"].keep()
        row.verdict, row.serves = result.verdict, result.serves
        row.significant, row.beats_simpler = result.significant, result.beats_simpler
        row.adjustments = [notice.stored() for notice in result.adjustments]
        if row.verdict == "undetermined":  # the test rows have judged nothing
            unit.ledger.withdraw(row.id)
            unit.jobs.add_warning(row, Notice(code="undetermined", message=_UNDETERMINED).stored())
        served = unit.models.get(row.model_id)
        if result.calibrated is not None:
            served = unit.models.add(calibrated(served, row, result.calibrated, files["model"], files["served"]))
            if "seen_rows" in files:
                served.seen_rows_sha256, served.seen_rows_key = files["seen_rows"].keep(), self._row_key
            model_record(unit, served).model_dump_json()  # raises where no list could show it
        row.calibrated_model_id = served.id
        unit.jobs.enter_stage(row, "publishing")
        row.progress = {"fraction": 1.0}
        # Another release may have inserted the row without the column, which only lists are searched by.
        if (name := JobRequest.read(row.request).publish_as) is not None:
            publication = published(unit, name, row, served)
            unit.events.add(row.id, "publication", publication.stored())
            if publication.version is None:
                message = f"“{name}” answers as before: {publication.reason}; predict_url leads to what this job serves"
                unit.jobs.add_warning(row, Notice(code="not_published", message=message).stored())
        unit.jobs.change_status(row, "succeeded")
        return job_record(unit, row, unit.work.of(row.id))


class Plan(JobKind[PlanResult]):
    """A dry run: no test row is looked at, nothing is published, and a plan is left in the job's record."""

    result, kind = PlanResult, "plan"

    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """Earlier evaluations of the test rows, without a place in the ledger."""
        return unit.ledger.evaluations(dataset.sha256)

    def limits(self, request: JobRequest) -> Limits:
        return Limits(self.settings.job_grace_seconds)

    def publish(self, unit: UnitOfWork, result: PlanResult, files: Mapping[str, StagedFile]) -> BaseModel:
        self.write_events(unit)
        row = self.row(unit)
        row.plan, row.progress = result.plan.stored(), {"fraction": 1.0}
        row.warnings = [notice.stored() for notice in result.plan.warnings]
        row.adjustments = [notice.stored() for notice in result.plan.adjustments]
        unit.jobs.change_status(row, "succeeded")
        return job_record(unit, row, unit.work.of(row.id))
