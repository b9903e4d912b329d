"""The repositories of what workers carry out: calibration jobs, batch predictions, and calibrators fitted on scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from pydantic import JsonValue
from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update

from fedlas.contract.base import JsonObject
from fedlas.contract.records import FINAL
from fedlas.contract.scores import ScorePromise, WantedPromise
from fedlas.contract.webhooks import parse_url, payload
from service.registry import tables
from service.registry.errors import Conflict
from service.registry.repositories.pieces import Pieces
from service.registry.repositories.records import AfterCommit, Ended, ListFilter, Models, Records, Repository
from service.registry.repositories.work import WorkQueue
from service.registry.tables import Checkpoint, Evaluation, Event, Json


class Events(Repository):
    """Events of jobs, appended in the transaction of the change that an event reports.

    Numbers grow by one within a job, so that a reader can continue where it stopped.
    """

    def add(self, job_id: str, type: str, data: JsonObject) -> None:
        self.extend(job_id, [(type, data)])

    def extend(self, job_id: str, events: Iterable[tuple[str, JsonObject]]) -> None:
        """Append events; there is one writer at a time, so that no number is given twice."""
        moment, last = self.now, self.last(job_id)
        for number, (type, data) in enumerate(events, last + 1):
            self.session.add(Event(job_id=job_id, number=number, type=type, at=moment, data=data))
        self.session.flush()

    def of_types(self, job_id: str, types: Collection[str]) -> Sequence[Event]:
        query = select(Event).where(Event.job_id == job_id, Event.type.in_(types))
        return self.session.scalars(query.order_by(Event.number)).all()

    def stage_seconds(self, job_id: str) -> dict[str, float]:
        """How long the job has been in each stage until now, all attempts together, and `queued` for a worker."""
        marks = self.of_types(job_id, ("status", "stage"))
        seconds: defaultdict[str, float] = defaultdict(float)
        stage, queued = "inspecting", True
        moments = [*(mark.at for mark in marks), self.now]
        for mark, (since, until) in zip(marks, pairwise(moments), strict=True):
            if mark.type == "stage":
                stage = str(mark.data["stage"])
            else:
                queued = mark.data["status"] == "queued"
            seconds["queued" if queued else stage] += (until - since).total_seconds()
        return dict(seconds)

    def last(self, job_id: str) -> int:
        return self.newest([job_id]).get(job_id, 0)

    def newest(self, job_ids: Iterable[str]) -> dict[str, int]:
        query = select(Event.job_id, func.max(Event.number).label("newest")).where(Event.job_id.in_(list(job_ids)))
        return {row.job_id: row.newest for row in self.session.execute(query.group_by(Event.job_id))}

    def after(self, job_id: str, number: int, *, limit: int) -> Sequence[Event]:
        query = select(Event).where(Event.job_id == job_id, Event.number > number)
        return self.session.scalars(query.order_by(Event.number).limit(limit)).all()

    def newest_before(self, job_id: str, number: int | None, *, limit: int) -> Iterator[Event]:
        """At most `limit` events, newest first, that came before this one; read as they are asked for."""
        query = select(Event).where(Event.job_id == job_id).order_by(Event.number.desc()).limit(limit)
        return self.streamed(query if number is None else query.where(Event.number < number))

    def newest_but(self, job_id: str, left_out: Collection[str], *, limit: int) -> Sequence[Event]:
        """At most `limit` events, newest first, that are of none of these types."""
        query = select(Event).where(Event.job_id == job_id, Event.type.not_in(left_out))
        return self.session.scalars(query.order_by(Event.number.desc()).limit(limit)).all()


class Checkpoints(Repository):
    """Entries that a job saved to resume from, by name, each an artifact."""

    def save(self, job_id: str, name: str, sha256: str) -> str | None:
        """Put the entry in place of an older one of this name; returns the older one's file."""
        older = self.of(job_id).get(name)
        self.session.merge(Checkpoint(job_id=job_id, name=name, sha256=sha256, saved_at=self.now))
        return older

    def of(self, job_id: str) -> Mapping[str, str]:
        query = select(Checkpoint.name, Checkpoint.sha256).where(Checkpoint.job_id == job_id)
        return {row.name: row.sha256 for row in self.session.execute(query)}

    def drop(self, job_id: str) -> list[str]:
        """The job has ended; returns the files, which something else may name."""
        dropped = delete(Checkpoint).where(Checkpoint.job_id == job_id).returning(Checkpoint.sha256)
        return list(self.session.scalars(dropped))


class EvaluationLedger(Repository):
    """How often the test rows of a file have judged a job or calibrator.

    A job enters before its test rows judge; the entry of a job without a verdict is withdrawn. The key is the digest of
    the file as it was sent: a dataset that is deleted and sent again, or split by another seed, goes on with the same
    ledger.
    """

    def enter(self, dataset_sha256: str, job_id: str) -> int:
        """Return how many evaluations came before this job's; a job that begins again keeps its number.

        The highest number so far decides, not the count: two jobs never have the same number.
        """
        entered = self.session.get(Evaluation, job_id)
        if entered is None:
            entered = Evaluation(job_id=job_id, dataset_sha256=dataset_sha256, number=self.evaluations(dataset_sha256))
            self.session.add(entered)
            self.session.flush()
        return entered.number

    def evaluations(self, dataset_sha256: str) -> int:
        """Return how many evaluations of this file the next job follows, without entering one."""
        of_file = Evaluation.dataset_sha256 == dataset_sha256
        highest = self.session.scalar(select(func.max(Evaluation.number)).where(of_file))
        return 0 if highest is None else highest + 1

    def withdraw(self, job_id: str) -> None:
        """Delete the entry of a job that ended without a verdict; nothing happens where there is none."""
        self.session.execute(delete(Evaluation).where(Evaluation.job_id == job_id))


#: The fields of its job in a message.
_SHOWN = ("id", "status", "verdict", "serves", "significant", "beats_simpler", "calibrated_model_id", "error")


class Deliveries(Records[tables.Delivery]):
    """Announced with a job's end, attempted by workers, and sent again on request."""

    table = tables.Delivery
    noun = "delivery"

    def announce(self, job: tables.Job) -> None:
        """Open a delivery to the webhook of a job that has ended, if it has one."""
        if job.webhook is None:
            return
        moment = self.now
        data = {
            **{name: getattr(job, name) for name in _SHOWN},
            "report_url": f"/v1/jobs/{job.id}/report" if job.report_sha256 else None,
            "metadata": job.request.get("metadata", {}),
        }
        type_ = f"job.{job.status}"
        row = tables.Delivery(
            id=tables.new_id("msg"),
            job_id=job.id,
            type=type_,
            url=job.webhook[0],
            body=payload(type_, moment, data).decode(),
            attempts=[],
            status="pending",
            created_at=moment,
        )
        self.add(row)
        # One message at a time goes to a host, so that a slow one delays only its own.
        WorkQueue(self.session).open(row.id, concurrency_key=parse_url(row.url).host)

    def of_job(self, job_id: str, *, limit: int, after: str | None) -> Iterator[tables.Delivery]:
        """At most `limit` messages of this job, newest first, that are older than the id `after`."""
        return self.newest(tables.Delivery.job_id == job_id, limit=limit, after=after)

    def delete_of(self, job_id: str) -> None:
        """Delete all messages of this job; those that were not delivered yet never will be."""
        for row in self.session.scalars(select(tables.Delivery).where(tables.Delivery.job_id == job_id)):
            self._delete(row)

    def record_attempt(self, row: tables.Delivery, attempt: Mapping[str, JsonValue], status: str) -> None:
        row.attempts = [*row.attempts, dict(attempt)]
        row.status = status
        if status == "delivered":
            row.delivered_at = self.now

    def disable(self, url: str) -> list[str]:
        """Disable all pending messages to an address that is gone for good; returns their ids."""
        query = select(tables.Delivery).where(tables.Delivery.url == url, tables.Delivery.status == "pending")
        waiting = [row for row in self.session.scalars(query) if WorkQueue(self.session).withdraw(row.id)]
        for row in waiting:
            row.status = "disabled"
        return [row.id for row in waiting]

    def resend(self, row: tables.Delivery) -> None:
        """Try again now, under the same id; raises Conflict while an attempt is running."""
        if not WorkQueue(self.session).reopen(row.id):
            raise Conflict("delivery_running", f"{row.id} is being delivered just now", passing=True)
        row.status = "pending"


Row = TypeVar("Row", bound=tables.Run)


class Runs(Records[Row]):
    """The common repository of jobs and batch predictions, which wait, run, and end."""

    def change_status(self, row: Row, status: str) -> None:
        """Set the status and its times; raises Conflict where the run has ended."""
        if row.status in FINAL:
            raise Conflict("already_finished", f"{row.id} has already {row.status}")
        row.status = status
        if status == "running" and row.started_at is None:
            row.started_at = self.now
        if status in FINAL:
            row.finished_at = self.now
            code = str((row.error or {}).get("code")) if status == "failed" else None
            AfterCommit.of(self.session).ended.append(
                Ended(row.id, status, code, Events(self.session).stage_seconds(row.id))
            )
            if row.progress.get("eta_seconds") is not None:  # nothing is left to wait for
                row.progress = {**row.progress, "eta_seconds": None}

    def requeue(self, record_id: str, reason: str) -> None:
        row = self.get(record_id)
        if row.status == "running":
            self.change_status(row, "queued")

    def fail(self, row: Row, error: Json) -> None:
        row.error = error
        self.change_status(row, "failed")

    def ended_before(self, moment: datetime, *, limit: int) -> Sequence[str]:
        """Ids of at most `limit` runs that ended before this moment, those first that ended first."""
        ended = select(self.table.id).where(self.table.finished_at < moment, *self._is_over())
        return self.session.scalars(ended.order_by(self.table.finished_at).limit(limit)).all()

    def _is_over(self) -> Iterator[ColumnElement[bool]]:
        """Conditions, beside its end, for nothing more to come of it."""
        yield from ()

    def delete(self, record_id: str) -> list[str]:
        """Delete with its files and pieces. Raises Conflict while it waits or runs."""
        row = self.get(record_id)
        if row.status not in FINAL:
            message = f"{record_id} is {row.status}; it can be deleted once it has ended"
            raise Conflict("not_finished", message, passing=True)
        unreferenced, dropped = self._delete(row), Pieces(self.session).drop(record_id)
        kept = self.referenced(dropped)
        return [*unreferenced, *(digest for digest in dropped if digest not in kept)]

    def _is_called(self, name: str) -> ColumnElement[bool]:
        named = select(tables.Model.id).where(tables.Model.name == name)
        published = select(tables.PublishedVersion.model_id).where(tables.PublishedVersion.name == name)
        called: ColumnElement[bool] = self.table.model_id.in_(named.union(published))
        return called


def _is_dry(wanted: bool) -> ColumnElement[bool]:
    """The condition that a job is a dry run, or none; a request that does not say so asks for a job."""
    dry: ColumnElement[bool] = tables.Job.request["dry_run"].as_boolean().is_(True)
    return dry if wanted else ~dry


class Jobs(Runs[tables.Job]):
    table = tables.Job
    noun = "job"

    def open(self, row: tables.Job) -> None:
        moment = self.now
        row.history = [{"status": row.status, "at": moment.isoformat()}]
        self.add(row)
        self.session.add(tables.Event(job_id=row.id, number=1, type="status", at=moment, data={"status": row.status}))

    def add(self, row: tables.Job) -> tables.Job:
        publish_as, words = row.request.get("publish_as"), row.request.get("metadata")
        row.publish_as = publish_as if isinstance(publish_as, str) else None
        for name, value in words.items() if isinstance(words, dict) else ():
            self.session.add(tables.JobMetadata(job_id=row.id, name=name, value=value))
        self.session.add(row)
        return row

    def of_model(self, model_id: str, *, limit: int) -> Iterator[tables.Job]:
        """Jobs of a model, newest first, dry runs apart."""
        return self.newest(tables.Job.model_id == model_id, _is_dry(False), limit=limit, after=None)

    def behind(self, model: tables.Model) -> tables.Job | None:
        """The job that made this model, or else the newest that has left it as it is; None where neither is there."""
        if model.job_id is not None:
            return self.find(model.job_id)
        left = (tables.Job.model_id == model.id, tables.Job.calibrated_model_id == model.id)
        return next(self.newest(*left, limit=1, after=None), None)

    def of_dataset(self, dataset_id: str, *, limit: int) -> Iterator[tables.Job]:
        """Jobs on a dataset, newest first, dry runs apart."""
        return self.newest(tables.Job.dataset_id == dataset_id, _is_dry(False), limit=limit, after=None)

    def change_status(self, row: tables.Job, status: str) -> None:
        """Change the status, with an event; a job without a result leaves the evaluation ledger."""
        super().change_status(row, status)
        row.history = [*row.history, {"status": status, "at": self.now.isoformat()}]
        self.session.flush()  # events and messages name a job that is there
        Events(self.session).add(row.id, "status", {"status": status})
        if status in ("failed", "cancelled"):
            EvaluationLedger(self.session).withdraw(row.id)
        if status in FINAL:
            AfterCommit.of(self.session).unreferenced += Checkpoints(self.session).drop(row.id)
            Deliveries(self.session).announce(row)

    def requeue(self, record_id: str, reason: str) -> None:
        if self.get(record_id).status == "running":
            Events(self.session).add(record_id, "attempt", {"reason": reason})
        super().requeue(record_id, reason)

    def add_warning(self, row: tables.Job, notice: Json) -> None:
        """Keep a warning, with an event; nothing happens where an earlier attempt has given the same."""
        if notice not in row.warnings:
            row.warnings = [*row.warnings, notice]
            Events(self.session).add(row.id, "warning", notice)

    def enter_stage(self, row: tables.Job, stage: str) -> None:
        if row.stage != stage:
            Events(self.session).add(row.id, "stage", {"stage": stage})
        row.stage = stage

    def delete(self, record_id: str) -> list[str]:
        """Delete with its events and messages; its model stays, and so do its looks at test rows."""
        unreferenced = super().delete(record_id)
        Deliveries(self.session).delete_of(record_id)
        for kept in (tables.Event, tables.JobMetadata):
            self.session.execute(delete(kept).where(kept.job_id == record_id))
        made = update(tables.Model).where(tables.Model.job_id == record_id)
        self.session.execute(made.values(job_deleted_at=self.now))
        return unreferenced

    def _is_over(self) -> Iterator[ColumnElement[bool]]:
        """The message about its end has arrived, or never will."""
        yield ~exists().where(tables.Delivery.job_id == tables.Job.id, tables.Delivery.status == "pending")

    def _conditions(self, only: ListFilter) -> Iterator[ColumnElement[bool]]:
        yield from super()._conditions(only)
        if only.dry_run is not None:
            yield _is_dry(only.dry_run)
        of = tables.JobMetadata
        for name, value in only.metadata.items():
            yield tables.Job.id.in_(select(of.job_id).where(of.name == name, of.value == value))

    def _is_called(self, name: str) -> ColumnElement[bool]:
        return or_(tables.Job.publish_as == name, super()._is_called(name))


class Batches(Runs[tables.Batch]):
    """The repository of batch predictions, whose results are the files of their pieces."""

    table = tables.Batch
    noun = "prediction"

    def change_status(self, row: tables.Batch, status: str) -> None:
        """Change the status; a failed batch keeps no piece, and no piece of an ended one is worked on any more."""
        super().change_status(row, status)
        pieces = Pieces(self.session)
        if status == "failed":
            AfterCommit.of(self.session).unreferenced += pieces.drop(row.id)
        elif status in FINAL:
            pieces.close(row.id)

    def advance(self, record_id: str) -> None:
        """Write how much of its pieces is done, and when the rest will be if that goes on as it went until now."""
        row = self.session.get_one(tables.Batch, record_id, with_for_update=True, populate_existing=True)
        if row.status in FINAL or row.started_at is None:
            return
        done = Pieces(self.session).progress(record_id)
        passed = (self.now - row.started_at).total_seconds()
        row.progress = {
            "fraction": round(done, 4),
            "eta_seconds": round(passed * (1 - done) / done, 1) if done else None,
        }


#: Options that change no promise.
_BESIDE_THE_PROMISE = ("publish_as", "valid_for")


def _asked(row: tables.Calibrator) -> tuple[Json, WantedPromise]:
    """Options as they decide the answer, and the promise: 5 % errors, 95 % precision and no word of it are one."""
    kept: Json = {
        name: value for name, value in row.options.items() if name not in _BESIDE_THE_PROMISE and value is not None
    }
    wanted = WantedPromise.model_validate(kept.pop("promise", None) or {})
    if wanted.recall is None:
        wanted = WantedPromise(max_error=round(wanted.error, 9), confidence=wanted.confidence)
    return kept, wanted


class Calibrators(Records[tables.Calibrator]):
    table = tables.Calibrator
    noun = "calibrator"

    def look(self, row: tables.Calibrator) -> int:
        """How many looks at these rows came before this one.

        The promise of a score that was asked for before, on the same rows, is the same answer and no other look.
        """
        for other in self._promising(row):
            looked = self.session.get(Evaluation, other.id) if _asked(other) == _asked(row) else None
            if looked is not None:
                return looked.number
        return EvaluationLedger(self.session).enter(row.sha256, row.id)

    def promised(self, row: tables.Calibrator) -> list[ScorePromise]:
        """Promises of these rows, read in the same way, that imply what is asked now."""
        reading, wanted = _asked(row)
        alike = [one.profile for one in self._promising(row) if _asked(one)[0] == reading]
        found = [ScorePromise.read(profile["promise"]) for profile in alike if profile]
        wish = wanted.model_dump(include={"max_error", "recall", "confidence"})
        return [promise for promise in found if promise.answers(**wish)]

    def _promising(self, row: tables.Calibrator) -> list[tables.Calibrator]:
        """The other calibrators of scores of this file, the first first."""
        of_file = select(tables.Calibrator).where(tables.Calibrator.sha256 == row.sha256).order_by(tables.Calibrator.id)
        others = self.session.scalars(of_file)
        return [one for one in others if one.id != row.id and one.profile and one.profile.get("promise")]

    def fitted(self, record_id: str, result: Mapping[str, object], files: Mapping[str, str]) -> None:
        """The calibrator is fitted and judged; `files` are the digests of what was written, by column."""
        row = self.get(record_id)
        columns = {name: result[name] for name in ("profile", "method", "parameters")}
        for column, value in {**columns, **files, "report": result["excerpt"], "status": "succeeded"}.items():
            setattr(row, column, value)

    def fail(self, record_id: str, error: Json) -> None:
        row = self.get(record_id)
        row.status, row.error = "failed", error
        EvaluationLedger(self.session).withdraw(record_id)

    def delete(self, record_id: str) -> list[str]:
        """Delete with its scores and its model, which must not be published; open work on it is closed."""
        row = self.get(record_id)
        if row.status not in FINAL:
            EvaluationLedger(self.session).withdraw(record_id)
        freed, models = self._delete(row), Models(self.session)
        return freed if models.find(row.model_id) is None else [*freed, *models.delete(row.model_id)]
