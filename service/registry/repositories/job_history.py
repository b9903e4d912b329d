"""History of a job beside its row: events, checkpoints, its entry in the evaluation ledger, webhook deliveries.

Events and deliveries are written in the transaction of the change that they report: none is lost or made up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from pydantic import JsonValue
from sqlalchemy import delete, func, select

from fedlas.contract.base import JsonObject
from fedlas.contract.webhooks import parse_url, payload
from service.registry import tables
from service.registry.errors import Conflict
from service.registry.repositories.records import Records, Repository
from service.registry.repositories.work import WorkQueue
from service.registry.tables import Checkpoint, Evaluation, Event


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
_SHOWN = ("id", "status", "verdict", "serves", "significant", "calibrated_model_id", "error")


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
