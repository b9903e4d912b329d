"""A job's end is sent to its webhook: signed, again after a failure, and never to an address that is not permitted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.helpers.answering import Asked, Told, answering
from tests.helpers.service import Json, Service, serving, until
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """A customer's receiver: it verifies with the reference library, and answers as the test wants."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.received: list[tuple[str, Json]] = []
        self.url = ""

    def take(self, asked: Asked) -> Told:
        """Raises for a wrong signature: then there is no answer."""
        message: Json = Webhook(SECRET).verify(asked.body, dict(asked.headers))
        self.received.append((asked.headers["webhook-id"], message))
        return self.statuses.pop(0) if self.statuses else 204, {}, b""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    with answering(receiver.take) as where:
        receiver.url = f"{where}/hook"
        yield receiver


def test_a_jobs_end_is_told(tmp_path: Path, uploads: Uploads) -> None:
    """The message says what the record says; after a 500 it comes again under the same id, and a resend once more."""
    allowed = {"FEDLAS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with receiving() as receiver, serving(tmp_path / "data", **allowed) as service:
        receiver.statuses = [500]
        webhook = {"url": receiver.url, "secret": SECRET}
        model = service.inspected("models", uploads["digits.onnx"])
        dataset = service.inspected("datasets", uploads["digits.npz"])
        ordered = service.order(model, dataset, method="temperature", webhook=webhook, metadata={"team": "x"})
        job = service.ended(ordered["id"])
        path = f"/v1/jobs/{job['id']}/deliveries"

        def delivered() -> bool:
            return bool([one["status"] for one in service.get(path)["data"]] == ["delivered"])

        until(delivered, what="the message is delivered")
        (record,) = service.get(path)["data"]
        assert [attempt["status_code"] for attempt in record["attempts"]] == [500, 204]
        resent = service.client.post(f"{path}/{record['id']}/resend")
        assert resent.status_code == 202, resent.text
        until(lambda: len(receiver.received) == 3, what="it comes once more")
        until(delivered, what="and is delivered again")
        assert {webhook_id for webhook_id, _ in receiver.received} == {record["id"]}
        message = receiver.received[0][1]
        assert all(later == message for _, later in receiver.received)
        assert message["type"] == "job.succeeded"
        copied = ["id", "status", "verdict", "serves", "significant", "beats_simpler", "error"]
        copied += ["calibrated_model_id", "report_url"]
        assert message["data"] == {**{name: job[name] for name in copied}, "metadata": {"team": "x"}}
        cancelled = service.order(model, dataset, webhook=webhook)
        service.client.post(f"/v1/jobs/{cancelled['id']}/cancel")
        until(lambda: receiver.received[-1][1]["type"] == "job.cancelled", what="the cancellation is told")


def test_nothing_is_sent_to_loopback_unless_it_is_permitted(service: Service, digits: tuple[Json, Json]) -> None:
    """The job's deliveries say why, and no answer and no line of the log has the secret."""
    model, dataset = digits
    with receiving() as receiver:
        ordered = service.order(model, dataset, webhook={"url": "https://localhost/hook", "secret": SECRET})
        service.client.post(f"/v1/jobs/{ordered['id']}/cancel")
        job = service.ended(ordered["id"])
        path = f"/v1/jobs/{job['id']}/deliveries"
        until(lambda: service.get(path)["data"][0]["attempts"], what="an attempt is made")
        (record,) = service.get(path)["data"]
        assert (record["status"], receiver.received) == ("pending", [])
        assert record["next_attempt_at"] is not None
        assert "loopback" in record["attempts"][0]["error"]
        seen = json.dumps([service.get(path), job, service.get(f"/v1/jobs/{job['id']}/events"), service.log])
        assert SECRET not in seen
        assert SECRET.removeprefix("whsec_") not in seen
        refused = service.client.post(
            "/v1/jobs",
            json={
                "model_id": model["id"],
                "dataset_id": dataset["id"],
                "webhook": {"url": receiver.url, "secret": SECRET},
            },
        )
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "webhook.url")
