"""Deliveries of webhook messages: each attempt is logged, and the message is settled or postponed.

No child is needed: no upload is opened, and of the response only the status counts.
"""

from __future__ import annotations

from random import Random

from fedlas.contract.records import RecordError
from service.registry import tables
from service.registry.registry import UnitOfWork
from worker.outside.kinds.base import WorkKind
from worker.outside.webhooks import WebhookResponse, attempt_outcome, delay_before, deliver, signed_headers


class Deliver(WorkKind):
    def begin(self) -> None:
        """Send it now; the response settles the work, or says when to try again."""
        with self.registry.read() as unit:
            row = unit.deliveries.get(self.record_id)
            webhook = unit.jobs.get(row.job_id).webhook
            moment = unit.now()
        assert webhook is not None
        body = row.body.encode()
        headers = signed_headers(row.id, moment, body, webhook[1])
        answer = deliver(row.url, headers, body, policy=self.settings.webhook_policy)
        with self.registry.write() as unit:
            unit.work.verify(self.claim)  # its job may have been deleted meanwhile, and with it the message
            self._note(unit, unit.deliveries.get(self.record_id), answer)

    def _note(self, unit: UnitOfWork, row: tables.Delivery, answer: WebhookResponse) -> None:
        outcome = attempt_outcome(answer.status_code)
        pause = delay_before(self.claim.attempts + 1, random=Random(), retry_after=answer.retry_after)
        attempt = {
            "at": unit.now().isoformat(),
            "status_code": answer.status_code,
            "error": answer.error,
            "seconds": round(answer.seconds, 3),
        }
        if outcome == "failed" and pause is not None:
            unit.work.postpone(self.claim, not_before=unit.now() + pause)
            unit.deliveries.record_attempt(row, attempt, "pending")
            return
        unit.work.finish(self.claim)
        unit.deliveries.record_attempt(row, attempt, outcome)
        if outcome == "disabled":
            unit.deliveries.disable(row.url)

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The message is given up, until a client asks for it again."""
        row = unit.deliveries.get(self.record_id)
        row.status, row.error = "failed", error.model_dump()
