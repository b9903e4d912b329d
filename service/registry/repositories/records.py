"""The repositories of records: what all kinds have in common, filters of lists, and datasets, models and uploads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy import Row as SqlRow
from sqlalchemy.orm import Session

from fedlas.contract.base import objection_within
from fedlas.contract.records import FINAL
from service.registry import tables
from service.registry.database import database_now
from service.registry.errors import Conflict, InvalidRequest, NotFound, UnknownReference
from service.registry.tables import Json


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Conditions that all hold; what is None, and an empty `metadata`, is no condition.

    Attributes:
        name: of the record itself; a job, or a batch, is found by the names of its model, too.
        created_after, created_before: neither includes the moment itself.
        metadata: of jobs: words that are all among theirs.
        origin: of models.
        dry_run: of jobs.
    """

    status: str | None = None
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    dry_run: bool | None = None


#: How long after its last byte an upload is kept.
KEPT = timedelta(hours=24)

T = TypeVar("T")
Row = TypeVar("Row", bound=tables.Entity)
InspectedRow = TypeVar("InspectedRow", bound=tables.Dataset | tables.Model)

#: Rows that are held at once.
_AT_ONCE = 4
#: Changes of what is served that are kept; who is further behind reads everything.
_MAX_CHANGES = 10_000
_DIGEST_COLUMNS = tables.digest_columns()


@dataclass(frozen=True, slots=True)
class Permit:
    """The permit to take the next work of a queue; `record_id` is a hint at what was put in, of this kind."""

    record_id: str
    kind: str
    queue: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A job or batch that has come to its end, for whoever counts; `code` says why it failed."""

    record_id: str
    status: str
    code: str | None
    stage_seconds: Mapping[str, float]


@dataclass(slots=True)
class AfterCommit:
    """Work that is left to do once the transaction is committed.

    Attributes:
        permits: for the work that it made claimable.
        unreferenced: digests of files that no record names any more.
        ended: the jobs and batches that it ended.
        served: whether other models may answer than before.
    """

    permits: list[Permit] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    served: bool = False

    @classmethod
    def of(cls, session: Session) -> AfterCommit:
        after_commit: AfterCommit = session.info.setdefault(cls, cls())
        return after_commit


class Repository:
    """Queries and changes within the transaction of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def now(self) -> datetime:
        return database_now(self.session)

    def streamed(self, query: Select[T]) -> Iterator[T]:
        """The rows of a query, a few at a time, since a page of them may end long before its limit.

        A page that ends early leaves no cursor open, which PostgreSQL would keep for it.
        """
        with closing(self.session.scalars(query.execution_options(yield_per=_AT_ONCE))) as rows:
            yield from rows


class ServedChanges(Repository):
    """The names and ids under which others may answer, in the order of commits: there is one writer at a time."""

    def add(self, called: str) -> None:
        number = self.newest() + 1
        self.session.add(tables.ServedChange(number=number, called=called))
        self.session.execute(delete(tables.ServedChange).where(tables.ServedChange.number <= number - _MAX_CHANGES))
        AfterCommit.of(self.session).served = True

    def newest(self) -> int:
        """The number of the last change; 0 where there was none."""
        return self.session.scalar(select(func.max(tables.ServedChange.number))) or 0

    def after(self, number: int) -> list[str] | None:
        """Names and ids of the changes since the one of this number, each once; None where some are not kept."""
        query = select(tables.ServedChange).where(tables.ServedChange.number > number)
        rows = self.session.scalars(query.order_by(tables.ServedChange.number)).all()
        is_whole = not rows or rows[0].number == number + 1
        return list(dict.fromkeys(row.called for row in rows)) if is_whole else None


class Records(Repository, Generic[Row]):
    table: ClassVar[type[Any]]
    noun: ClassVar[str]

    def add(self, row: Row) -> Row:
        """Insert a new record; raises InvalidRequest where its options hold text that no answer could carry."""
        if reason := objection_within(getattr(row, "options", None)):
            raise InvalidRequest("invalid_text", f"an option {reason}, and such text cannot be kept")
        self.session.add(row)
        self.session.flush()
        return row

    def get(self, record_id: str) -> Row:
        row = self.find(record_id)
        if row is None:
            raise NotFound(f"unknown_{self.noun}", f"there is no {self.noun} {record_id!r}")
        return row

    def find(self, record_id: str) -> Row | None:
        try:
            row: Row | None = self.session.get(self.table, record_id)
        except NotFound:  # text that no database keeps
            return None
        return row

    def newest(self, *where: ColumnElement[bool], limit: int, after: str | None) -> Iterator[Row]:
        """At most `limit` records, newest first, that are older than the id `after`; read as they are asked for."""
        query = select(self.table).where(*where).order_by(self.table.id.desc()).limit(limit)
        return self.streamed(query if after is None else query.where(self.table.id < after))

    def listed(self, only: ListFilter, *, limit: int, after: str | None) -> Iterator[Row]:
        """Records of `newest` that the filter lets through."""
        return self.newest(*self._conditions(only), limit=limit, after=after)

    def _conditions(self, only: ListFilter) -> Iterator[ColumnElement[bool]]:
        if only.status is not None:
            yield self.table.status == only.status
        if only.name is not None:
            yield self._is_called(only.name)
        if only.created_after is not None:
            yield self.table.created_at > only.created_after
        if only.created_before is not None:
            yield self.table.created_at < only.created_before

    def _is_called(self, name: str) -> ColumnElement[bool]:
        called: ColumnElement[bool] = self.table.name == name
        return called

    def statuses(self, record_ids: Iterable[str]) -> dict[str, str]:
        query = select(self.table.id, self.table.status).where(self.table.id.in_(list(record_ids)))
        return {row.id: row.status for row in self.session.execute(query)}

    def is_referenced(self, digest: str) -> bool:
        return bool(self.referenced([digest]))

    def referenced(self, digests: Collection[str]) -> set[str]:
        return {
            digest
            for column in _DIGEST_COLUMNS
            for digest in self.session.scalars(select(column).where(column.in_(list(digests))).distinct())
        }

    def open_users(self, record_id: str) -> list[str]:
        """Ids of the open jobs and batches that read this model or dataset."""
        ids: list[str] = []
        for user in (tables.Job, tables.Batch):
            named = or_(user.model_id == record_id, user.dataset_id == record_id)
            ids += self.session.scalars(select(user.id).where(named, user.status.not_in(FINAL)))
        return ids

    def _delete(self, row: Row) -> list[str]:
        digests = [getattr(row, column.key) for column in _DIGEST_COLUMNS if column.table is row.__table__]
        if (work := self.session.get(tables.Work, row.id)) is not None:
            self.session.delete(work)
        self.session.delete(row)
        self.session.flush()
        return [digest for digest in digests if digest and not self.is_referenced(digest)]


class _Inspected(Records[InspectedRow]):
    """Uploaded files that inspection accepts or rejects."""

    def reject(self, record_id: str, error: Json) -> None:
        row = self.get(record_id)
        row.status, row.error = "rejected", error

    def choices(self, *, limit: int) -> Sequence[SqlRow[str, str, datetime]]:
        """`id`, `name` and `created_at` alone of the newest `limit` that are ready."""
        query = select(self.table.id, self.table.name, self.table.created_at).where(self.table.status == "ready")
        return self.session.execute(query.order_by(self.table.id.desc()).limit(limit)).all()

    def delete(self, record_id: str) -> list[str]:
        """Delete; finished jobs keep their reports. Raises Conflict while an open job or batch needs it."""
        row = self.get(record_id)
        if users := self.open_users(record_id):
            message = f"{record_id} is needed by {', '.join(users[:3])}; wait or cancel first"
            raise Conflict("in_use", message, passing=True)
        return self._delete(row)


class Datasets(_Inspected[tables.Dataset]):
    table = tables.Dataset
    noun = "dataset"

    def ready(self, record_id: str, *, profile: Json, prepared_sha256: str) -> None:
        """Inspection read the file; its splits are fixed from here on."""
        row = self.get(record_id)
        row.status, row.profile, row.prepared_sha256 = "ready", profile, prepared_sha256


class Models(_Inspected[tables.Model]):
    """Classifiers, uploaded and calibrated."""

    table = tables.Model
    noun = "model"

    def ready(self, record_id: str, *, profile: Json, served_sha256: str, written_by: str | None = None) -> None:
        """Inspection read the file and wrote the copy that is served.

        The file that the job `written_by` wrote has seen what it has seen, whoever sends it again.
        """
        row = self.get(record_id)
        row.status, row.profile, row.served_sha256 = "ready", profile, served_sha256
        ServedChanges(self.session).add(record_id)
        written = select(tables.Model).where(tables.Model.job_id == written_by).limit(1)
        if written_by is not None and (same := self.session.scalar(written)) is not None:
            row.seen_rows_sha256, row.seen_rows_key = same.seen_rows_sha256, same.seen_rows_key

    def reject(self, record_id: str, error: Json) -> None:
        super().reject(record_id, error)
        ServedChanges(self.session).add(record_id)

    def made_of(self, model_id: str, *, limit: int) -> Iterator[tables.Model]:
        """At most `limit` calibrated models that this one was made into, newest first."""
        return self.newest(tables.Model.parent_id == model_id, limit=limit, after=None)

    def states(self, *, limit: int) -> Sequence[SqlRow[str, int, str, Json | None]]:
        """`id`, `version`, `status` and `error` alone of the newest `limit` models."""
        query = select(tables.Model.id, tables.Model.version, tables.Model.status, tables.Model.error)
        return self.session.execute(query.order_by(tables.Model.id.desc()).limit(limit)).all()

    def delete(self, record_id: str) -> list[str]:
        """Delete it; raises Conflict while it is published, too, or while a calibrator of scores answers by it."""
        calibrator = f"cal_{record_id.removeprefix('mdl_')}"
        if self.session.get(tables.Calibrator, calibrator) is not None:
            raise Conflict(
                "in_use", f"{calibrator} answers by {record_id}: DELETE /v1/calibrators/{calibrator} takes both"
            )
        published = select(tables.PublishedVersion.name).where(tables.PublishedVersion.model_id == record_id)
        if name := self.session.scalar(published):
            mend = f"DELETE /v1/names/{name}, or one version of it, first"
            raise Conflict("in_use", f"{record_id} is published as {name!r}; {mend}")
        ServedChanges(self.session).add(record_id)
        return super().delete(record_id)

    def _conditions(self, only: ListFilter) -> Iterator[ColumnElement[bool]]:
        yield from super()._conditions(only)
        if only.origin is not None:
            yield tables.Model.origin == only.origin


class Uploads(Records[tables.Upload]):
    """Resumable uploads; how much has arrived is the length of their files."""

    table = tables.Upload
    noun = "upload"

    def remove(self, upload_id: str) -> bool:
        """Delete the upload; False if it was deleted before."""
        removed = delete(tables.Upload).where(tables.Upload.id == upload_id).returning(tables.Upload.id)
        return self.session.scalar(removed) is not None

    def consume(self, upload_id: str) -> None:
        """The upload becomes a record in this same transaction; raises UnknownReference if it is not there."""
        if not self.remove(upload_id):
            message = f"there is no upload {upload_id!r}: it was used, deleted, or untouched for 24 hours"
            raise UnknownReference("unknown_upload", message, field="upload_id")
