"""Webhook deliveries: written in the transaction of the change that they report, so that none is lost or made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue
from sqlalchemy import select

from service.registry import tables
from service.registry.errors import Conflict
from service.registry.repositories.records import Records
from service.registry.repositories.work import WorkQueue
from service.registry.webhooks import parse_url, payload

#: The fields of its job in a message.
_SHOWN = ("id", "status", "verdict", "promoted", "shown", "calibrated_model_id", "error")


class Deliveries(Records[tables.Delivery]):
    """Announced with a job's end, attempted by workers, and sent again on request."""

    table = tables.Delivery
    noun = "delivery"

    def announce(self, job: tables.Job) -> None:
        """Open a delivery to the webhook of a job that has ended, if it has one."""
        if job.webhook is None:
            return
        moment = self.now
        shown = {name: getattr(job, name) for name in _SHOWN}
        report_url = f"/v1/jobs/{job.id}/report" if job.report_sha256 else None
        data = {**shown, "report_url": report_url, "metadata": job.request.get("metadata", {})}
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
        """Append an attempt to the log and set the status after it."""
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
