"""Messages to a job's webhook."""

from __future__ import annotations

from fedlas.client.queries import HasId, path_part
from fedlas.client.records.page import Page
from fedlas.client.records.runs import Delivery
from fedlas.client.retrying import Retries
from fedlas.client.transport import Pages, Transport


class Deliveries:
    """`client.jobs.deliveries`: what was sent to the webhook of a job, and what came of it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, job: str | HasId, *, limit: int | None = None) -> Pages[Delivery]:
        """The messages of a job, newest first."""
        path = f"/v1/jobs/{path_part(job)}/deliveries"
        return Pages(self._transport, Page[Delivery], path, {}, limit=limit, cursor=lambda item: item.id)

    def resend(self, job: str | HasId, delivery: str | HasId) -> Delivery:
        """Send a message once more, now; its `webhook-id` stays the same."""
        path = f"/v1/jobs/{path_part(job)}/deliveries/{path_part(delivery)}/resend"
        return self._transport.read(Delivery, "POST", path, retries=Retries.NONE)
