"""Messages to webhooks as their owner sees them: what was sent, when it is tried again, and sent once more."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.registry.database import database_now
from tests.helpers.api import Api
from tests.helpers.problems import problem

Json = dict[str, Any]

SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
WEBHOOK = {"url": "https://example.org/hook", "secret": SECRET}


def cancelled(api: Api, **options: Any) -> str:
    """The id of a job that has ended."""
    model, dataset = api.post("/v1/models", content=b"m")["id"], api.post("/v1/datasets", content=b"d")["id"]
    job = api.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset, **options})["id"]
    api.post(f"/v1/jobs/{job}/cancel")
    return str(job)


def deliveries(api: Api, job: str, **query: Any) -> Json:
    """One page of them."""
    answer = api.client.get(f"/v1/jobs/{job}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def claim(api: Api, delivery: str) -> Any:
    """A worker takes it."""
    with api.registry.write() as unit:
        return unit.work.claim(delivery, worker="test", lease_seconds=60)


def test_the_end_of_a_job_is_a_message(api: Api) -> None:
    """A job's end makes one message to its webhook, due at once; without a webhook there is none."""
    assert deliveries(api, cancelled(api)) == {"data": [], "has_more": False}
    job = cancelled(api, webhook=WEBHOOK)
    (message,) = deliveries(api, job)["data"]
    assert (message["job_id"], message["type"], message["url"]) == (job, "job.cancelled", WEBHOOK["url"])
    assert (message["status"], message["attempts"], message["delivered_at"]) == ("pending", [], None)
    due = datetime.fromisoformat(message["next_attempt_at"])
    assert abs(due - datetime.now(UTC)) < timedelta(minutes=1)


def test_attempts_are_told(api: Api) -> None:
    """Every attempt stands in the record, and while it is pending when the next one is due."""
    job = cancelled(api, webhook=WEBHOOK)
    delivery = deliveries(api, job)["data"][0]["id"]
    held = claim(api, delivery)
    attempt = {"at": "2026-01-01T00:00:00Z", "status_code": 503, "error": None, "seconds": 0.5}
    with api.registry.write() as unit:
        due = database_now(unit.session) + timedelta(minutes=5)
        unit.deliveries.record_attempt(unit.deliveries.get(delivery), attempt, "pending")
        unit.work.postpone(held, not_before=due)
    (message,) = deliveries(api, job)["data"]
    assert message["attempts"] == [attempt]
    assert datetime.fromisoformat(message["next_attempt_at"]) == due
    with api.registry.write() as unit:
        unit.deliveries.record_attempt(unit.deliveries.get(delivery), {**attempt, "status_code": 204}, "delivered")
    (message,) = deliveries(api, job)["data"]
    assert [line["status_code"] for line in message["attempts"]] == [503, 204]
    assert (message["status"], message["next_attempt_at"]) == ("delivered", None)
    assert message["delivered_at"] is not None


def test_sent_once_more(api: Api) -> None:
    """Resending makes a settled or waiting message due now under its own id; one that is being sent is 409."""
    job = cancelled(api, webhook=WEBHOOK)
    delivery = deliveries(api, job)["data"][0]["id"]
    path = f"/v1/jobs/{job}/deliveries/{delivery}/resend"
    held = claim(api, delivery)
    problem(api.client.post(path), 409, "delivery_running")
    for status in ("delivered", "failed", "disabled"):
        with api.registry.write() as unit:
            unit.deliveries.record_attempt(
                unit.deliveries.get(delivery), {"at": "2026-01-01T00:00:00Z", "seconds": 0.1}, status
            )
            unit.work.finish(held)
        answer = api.client.post(path)
        assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (202, delivery, "pending")
        assert int(answer.headers["retry-after"]) > 0
        held = claim(api, delivery)
        assert held is not None, "it is due at once"
    assert [line["id"] for line in deliveries(api, job)["data"]] == [delivery]


def test_what_is_not_there_is_404(api: Api) -> None:
    """An unknown message is 404, and so is one of another job; as a cursor what is no id is 422."""
    job, other = cancelled(api, webhook=WEBHOOK), cancelled(api, webhook=WEBHOOK)
    delivery = deliveries(api, other)["data"][0]["id"]
    for unknown in ("msg_x", delivery):
        problem(api.client.post(f"/v1/jobs/{job}/deliveries/{unknown}/resend"), 404, "unknown_delivery")
    problem(api.client.get(f"/v1/jobs/{job}/deliveries?after=msg_x"), 422, "invalid_cursor")
    problem(api.client.post(f"/v1/jobs/job_x/deliveries/{delivery}/resend"), 404, "unknown_job")


def test_they_come_in_pages(api: Api) -> None:
    """Messages of one job are listed newest first, page by page."""
    job = cancelled(api, webhook=WEBHOOK)
    with api.registry.write() as unit:
        for _ in range(2):
            unit.deliveries.announce(unit.jobs.get(job))
    whole = [line["id"] for line in deliveries(api, job)["data"]]
    assert (len(whole), whole) == (3, sorted(whole, reverse=True))
    page = deliveries(api, job, limit=2)
    rest = deliveries(api, job, limit=2, after=page["data"][-1]["id"])
    assert [line["id"] for line in page["data"] + rest["data"]] == whole
    assert (page["has_more"], rest["has_more"]) == (True, False)


@pytest.mark.parametrize("in_parts", [False, True])
def test_the_secret_never_leaves(api: Api, caplog: pytest.LogCaptureFixture, in_parts: bool) -> None:
    """No answer, event, message, refusal or log line holds a webhook's secret, nor what it encodes."""
    caplog.set_level(logging.DEBUG)
    webhook = {**WEBHOOK, "url": "https://example.org/é"}
    if in_parts:
        bad, good = ({"files": _files(hook)} for hook in (webhook, WEBHOOK))
    else:
        ids = {f"{kind}_id": api.post(f"/v1/{kind}s", content=b"x")["id"] for kind in ("model", "dataset")}
        bad, good = ({"json": {**ids, "webhook": hook}} for hook in (webhook, WEBHOOK))
    headers = {"Idempotency-Key": "k"}
    texts = [api.client.post("/v1/jobs", headers=headers, **bad).text]
    assert "webhook.url" in texts[0]
    short = SECRET[:20]
    broken = {"json": {"webhook": {**WEBHOOK, "secret": short}}}
    texts.append(api.client.post("/v1/jobs", **broken).text)
    assert "webhook.secret" in texts[1]
    for _ in range(2):
        answer = api.client.post("/v1/jobs", headers=headers, **good)
        assert answer.status_code == 202
        texts.append(answer.text)
    job = answer.json()["id"]
    texts.append(api.client.post(f"/v1/jobs/{job}/cancel").text)
    paths = ("", "/events", "/deliveries", "/report", "/report.html")
    texts += [api.client.get(f"/v1/jobs/{job}{path}").text for path in paths]
    texts += [api.client.get("/v1/jobs").text, caplog.text]
    texts.append(api.client.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}).text)
    with api.registry.read() as unit:
        texts += [row.body for row in unit.deliveries.of_job(job, limit=9, after=None)]
        texts.append(str(unit.keys.current("jobs:k")))
    for text in texts:
        assert SECRET[6:] not in text
        assert short not in text


def _files(webhook: Json) -> Json:
    return {"model": ("m", b"m"), "dataset": ("d", b"d"), "job": (None, json.dumps({"webhook": webhook}))}
