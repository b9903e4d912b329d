"""The repositories of records: find, list, change and delete."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import Row as SqlRow
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.registry import tables
from service.registry.clock import database_now
from service.registry.contract import FINAL
from service.registry.errors import Conflict, InvalidRequest, NotFound
from service.registry.repositories.checkpoints import Checkpoints
from service.registry.repositories.deliveries import Deliveries
from service.registry.repositories.evaluation_ledger import EvaluationLedger
from service.registry.repositories.events import Events
from service.registry.repositories.paging import few_at_a_time
from service.registry.tables import Json
from service.registry.text import objection_within

Row = TypeVar("Row", tables.Dataset, tables.Model, tables.Job, tables.Batch, tables.Calibrator)

_DIGEST_COLUMNS = tables.digest_columns()


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class _Records(Generic[Row]):
    """The operations of all kinds of records."""

    table: ClassVar[type[Any]]
    noun: ClassVar[str]

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, row: Row) -> Row:
        """Insert a new record; raises InvalidRequest where its options hold text that no answer could carry."""
        if found := objection_within(getattr(row, "options", None)):
            raise InvalidRequest("invalid_text", f"an option {found}, and such text cannot be kept")
        self.session.add(row)
        self.session.flush()
        return row

    def get(self, record_id: str) -> Row:
        """Return the record; raises NotFound."""
        row: Row | None = self.session.get(self.table, record_id)
        if row is None:
            raise NotFound(f"unknown_{self.noun}", f"there is no {self.noun} {record_id!r}")
        return row

    def find(self, record_id: str) -> Row | None:
        """Return the record, or None."""
        row: Row | None = self.session.get(self.table, record_id)
        return row

    def newest(self, *, limit: int, after: str | None) -> Iterator[Row]:
        """At most `limit` records, newest first, that are older than the id `after`; read as they are asked for."""
        query = select(self.table).order_by(self.table.id.desc()).limit(limit)
        if after is not None:
            query = query.where(self.table.id < after)
        yield from few_at_a_time(self.session, query)

    def statuses(self, record_ids: Iterable[str]) -> dict[str, str]:
        """Return the status of each of these records that exists."""
        query = select(self.table.id, self.table.status).where(self.table.id.in_(list(record_ids)))
        return {row.id: row.status for row in self.session.execute(query)}

    def _delete(self, row: Row) -> list[str]:
        """Delete the record and return the files that nothing names any more."""
        digests = [getattr(row, column.key) for column in _DIGEST_COLUMNS if column.table is row.__table__]
        work = self.session.get(tables.Work, row.id)
        if work is not None:
            self.session.delete(work)
        self.session.delete(row)
        self.session.flush()
        return [digest for digest in digests if digest and not self.is_named(digest)]

    def is_named(self, digest: str) -> bool:
        """Whether any record names this stored file."""
        return any(self.session.scalar(select(column).where(column == digest).limit(1)) for column in _DIGEST_COLUMNS)

    def named(self, digests: Collection[str]) -> set[str]:
        """Those of these stored files that some record names."""
        return {
            found
            for column in _DIGEST_COLUMNS
            for found in self.session.scalars(select(column).where(column.in_(list(digests))))
        }

    def _open_uses(self, condition: str, record_id: str) -> list[str]:
        """Ids of jobs and batches that still need the record."""
        return [
            found
            for user in (tables.Job, tables.Batch)
            for found in self.session.scalars(
                select(user.id).where(getattr(user, condition) == record_id, user.status.not_in(FINAL))
            )
        ]

    def _refuse_while_used(self, condition: str, record_id: str) -> None:
        if users := self._open_uses(condition, record_id):
            raise Conflict(
                "in_use", f"{record_id} is needed by {', '.join(users[:3])}; wait or cancel first", passing=True
            )


class _UploadedRecords(_Records[Row]):
    """Datasets and models: what inspection decides about them."""

    def reject(self, record_id: str, error: Json) -> None:
        """Inspection found the file unfit."""
        row = self.get(record_id)
        row.status, row.error = "rejected", error


class Datasets(_UploadedRecords[tables.Dataset]):
    """Labelled datasets."""

    table = tables.Dataset
    noun = "dataset"

    def ready(self, record_id: str, *, profile: Json, prepared_sha256: str) -> None:
        """Inspection read the file; its splits are fixed from here on."""
        row = self.get(record_id)
        row.status, row.profile, row.prepared_sha256 = "ready", profile, prepared_sha256

    def delete(self, record_id: str) -> list[str]:
        """Delete; finished jobs keep their reports. Raises Conflict while an open job or batch needs it."""
        row = self.get(record_id)
        self._refuse_while_used("dataset_id", record_id)
        return self._delete(row)


class Models(_UploadedRecords[tables.Model]):
    """Classifiers, uploaded and calibrated."""

    table = tables.Model
    noun = "model"

    def ready(self, record_id: str, *, profile: Json, served_sha256: str) -> None:
        """Inspection read the file and wrote the copy that is served."""
        row = self.get(record_id)
        row.status, row.profile, row.served_sha256 = "ready", profile, served_sha256

    def states(self, *, limit: int) -> Sequence[SqlRow[str, int, str, Json | None]]:
        """Of the newest `limit` models no more than `id`, `version`, `status` and `error`."""
        query = select(tables.Model.id, tables.Model.version, tables.Model.status, tables.Model.error)
        return self.session.execute(query.order_by(tables.Model.id.desc()).limit(limit)).all()

    def delete(self, record_id: str) -> list[str]:
        """Delete; finished jobs keep their reports. Raises Conflict while in use or published."""
        row = self.get(record_id)
        self._refuse_while_used("model_id", record_id)
        published = select(tables.PublishedVersion.name).where(tables.PublishedVersion.model_id == record_id)
        if name := self.session.scalar(published):
            raise Conflict("in_use", f"{record_id} is published as {name!r}")
        return self._delete(row)


class Jobs(_Records[tables.Job]):
    """Calibrations."""

    table = tables.Job
    noun = "job"

    def __init__(self, session: Session, deliveries: Deliveries) -> None:
        super().__init__(session)
        self._deliveries = deliveries
        self.unnamed: list[str] = []  # files that nothing may name any more once this transaction is over

    def open(self, row: tables.Job) -> None:
        """Insert a new job with its first event."""
        moment = database_now(self.session)
        row.history = [{"status": row.status, "at": moment.isoformat()}]
        first = tables.Event(job_id=row.id, number=1, type="status", at=moment, data={"status": row.status})
        self.session.add_all([row, first])

    def change_status(self, row: tables.Job, status: str) -> None:
        """Set the status and add its event; a job without a result leaves the evaluation ledger."""
        if row.status in FINAL:
            raise Conflict("already_finished", f"{row.id} has already {row.status}")
        moment = database_now(self.session)
        row.status = status
        row.history = [*row.history, {"status": status, "at": moment.isoformat()}]
        if status == "running" and row.started_at is None:
            row.started_at = moment
        self.session.flush()  # events and messages name a job that is there
        Events(self.session).add(row.id, "status", {"status": status})
        if status in ("failed", "cancelled"):
            EvaluationLedger(self.session).withdraw(row.id)
        if status in FINAL:
            row.finished_at = moment
            self.unnamed += Checkpoints(self.session).drop(row.id)
            self._deliveries.announce(row)

    def wait_again(self, record_id: str, reason: str) -> None:
        """The job's process was lost and another continues; without effect on a job that is to be cancelled."""
        row = self.get(record_id)
        if row.status == "running":
            Events(self.session).add(row.id, "attempt", {"reason": reason})
            self.change_status(row, "queued")

    def forsaken(self) -> Sequence[tables.Job]:
        """Jobs to be cancelled whose work is not claimed."""
        held = select(tables.Work.record_id).where(tables.Work.state == "claimed")
        query = select(tables.Job).where(tables.Job.status == "cancelling", tables.Job.id.not_in(held))
        return self.session.scalars(query).all()

    def show(self, row: tables.Job, stage: str, progress: Json) -> None:
        """Write where the job stands; a new stage is an event."""
        if row.stage != stage:
            Events(self.session).add(row.id, "stage", {"stage": stage})
        row.stage, row.progress = stage, progress

    def fail(self, row: tables.Job, error: Json) -> None:
        """The job ended without a result."""
        row.error = error
        self.change_status(row, "failed")

    def waiting_for(self, record_id: str) -> list[str]:
        """Ids of open jobs and batches that name this record."""
        found: list[str] = []
        for user in (tables.Job, tables.Batch):
            named = or_(user.model_id == record_id, user.dataset_id == record_id)
            found += self.session.scalars(select(user.id).where(named, user.status.not_in(FINAL)))
        return found


class Batches(_Records[tables.Batch]):
    """Predictions over stored datasets."""

    table = tables.Batch
    noun = "prediction"

    def change_status(self, row: tables.Batch, status: str) -> None:
        """Set the status and its times."""
        if row.status in FINAL:
            raise Conflict("already_finished", f"{row.id} has already {row.status}")
        row.status = status
        if status == "running" and row.started_at is None:
            row.started_at = database_now(self.session)
        if status in FINAL:
            row.finished_at = database_now(self.session)

    def wait_again(self, record_id: str) -> None:
        """Its process was lost, and another begins again."""
        row = self.get(record_id)
        if row.status == "running":
            self.change_status(row, "queued")

    def fail(self, row: tables.Batch, error: Json) -> None:
        """The batch ended without a result."""
        row.error = error
        self.change_status(row, "failed")

    def delete(self, record_id: str) -> list[str]:
        """Delete with its results. Raises Conflict while it waits or runs."""
        row = self.get(record_id)
        if row.status not in FINAL:
            raise Conflict(
                "not_finished", f"{record_id} is {row.status}; it can be deleted once it has ended", passing=True
            )
        return self._delete(row)


class Calibrators(_Records[tables.Calibrator]):
    """Calibrators fitted on scores."""

    table = tables.Calibrator
    noun = "calibrator"

    def fitted(self, record_id: str, result: Json, files: Mapping[str, str]) -> None:
        """The calibrator is fitted and judged; `files` are the digests of what was written, by column."""
        row = self.get(record_id)
        row.status, row.profile, row.report = "succeeded", result["profile"], result["excerpt"]
        row.method, row.parameters = result["method"], result["parameters"]
        for column, digest in files.items():
            setattr(row, column, digest)

    def fail(self, record_id: str, error: Json) -> None:
        """There is no calibrator for these scores, and their test rows have shown nothing."""
        row = self.get(record_id)
        row.status, row.error = "failed", error
        EvaluationLedger(self.session).withdraw(record_id)

    def delete(self, record_id: str) -> list[str]:
        """Delete with its scores; work that is still open on it is closed."""
        row = self.get(record_id)
        if row.status not in FINAL:
            EvaluationLedger(self.session).withdraw(record_id)
        return self._delete(row)
