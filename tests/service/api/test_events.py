"""Events of a job, as a list and as a stream, from any API process; and messages to its webhook."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.plumbing.long_poll import LongPoll
from service.api.resources import events
from service.registry.database import database_now
from service.registry.registry import Registry
from service.registry.repositories.jobs import Events
from service.registry.settings import ServiceSettings
from tests.helpers.api import Api, Json
from tests.helpers.backends import place
from tests.helpers.live_api import events_of, following, listening, live, order
from tests.helpers.problems import fields, problem
from tests.helpers.work import add_job

STREAM = {"Accept": "text/event-stream"}


def add(registry: Registry, job_id: str, *fractions: float) -> None:
    """Write the progress that a worker reports."""
    with registry.write() as unit:
        for fraction in fractions:
            unit.events.add(job_id, "progress", {"fraction": fraction})


def end(registry: Registry, job_id: str, status: str = "cancelled") -> None:
    """Write the end that a worker reports."""
    with registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(job_id), status)


def stream(api: Api, job_id: str, **headers: str) -> list[Json]:
    """All events of the stream of a job that has ended."""
    answer = api.client.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, **headers})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    return list(events_of(iter(answer.text.split("\n"))))


def test_the_list_is_pages_newest_first(api: Api) -> None:
    """Numbers grow by one; pages go back from the newest, and the first event is the job's first status."""
    job_id = api.ordered()
    add(api.registry, job_id, 0.25, 0.5, 0.75)
    path = f"/v1/jobs/{job_id}/events"
    first = api.client.get(f"{path}?limit=3").json()
    rest = api.client.get(f"{path}?limit=3&after={first['next']}").json()
    assert [event["id"] for event in first["data"] + rest["data"]] == [4, 3, 2, 1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert first["data"][0]["data"] == {"fraction": 0.75}
    assert (rest["data"][0]["type"], rest["data"][0]["data"]) == ("status", {"status": "queued"})


def test_a_stream_tells_everything_and_ends(api: Api) -> None:
    """A stream begins with the first event, tells what the list tells, and ends after the final status."""
    job_id = api.ordered()
    add(api.registry, job_id, *(number / 1000 for number in range(1000)))
    end(api.registry, job_id)
    told = stream(api, job_id)
    assert [event["id"] for event in told] == list(range(1, 1003))
    listed = api.client.get(f"/v1/jobs/{job_id}/events?limit=1000").json()["data"]
    assert told[:1:-1] == listed
    assert told[-1]["data"] == {"status": "cancelled"}


def test_a_stream_goes_on_anywhere(api: Api) -> None:
    """After any `Last-Event-ID`, or `last_event_id`, follows exactly the rest; 204 answers a client that has all."""
    job_id = api.ordered()
    add(api.registry, job_id, 0.5)
    end(api.registry, job_id, "failed")
    whole = stream(api, job_id)
    for number in range(3):
        assert stream(api, job_id, **{"Last-Event-ID": str(number)}) == whole[number:]
        answer = api.client.get(f"/v1/jobs/{job_id}/events?last_event_id={number}", headers=STREAM)
        assert list(events_of(iter(answer.text.split("\n")))) == whole[number:]
    for number in (3, 4, 10**17):
        answer = api.client.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": str(number)})
        assert (answer.status_code, answer.content) == (204, b"")
    both = api.client.get(f"/v1/jobs/{job_id}/events?last_event_id=0", headers={**STREAM, "Last-Event-ID": "2"})
    assert list(events_of(iter(both.text.split("\n")))) == whole[2:], "a browser sends both when it comes again"


def test_each_form_goes_on_by_its_own_parameter(api: Api) -> None:
    """A page refuses what a stream goes on by, and a stream what a page goes on by."""
    path = f"/v1/jobs/{api.ordered()}/events"
    assert fields(api.client.get(f"{path}?after=1", headers=STREAM)) == {"after"}
    assert fields(api.client.get(f"{path}?last_event_id=1")) == {"last_event_id"}


@pytest.mark.parametrize("given", ["", "x", "-1", "1.5", "0x1", "1 2", "1" * 19])
def test_a_malformed_last_event_id_is_422(api: Api, given: str) -> None:
    """A value that is no number of an event is refused with the header's name."""
    path = f"/v1/jobs/{api.ordered()}/events"
    assert fields(api.client.get(path, headers={**STREAM, "Last-Event-ID": given})) == {"Last-Event-ID"}


def test_a_stream_of_no_job_is_404(api: Api) -> None:
    """An unknown job has neither a list nor a stream."""
    problem(api.client.get("/v1/jobs/job_x/events", headers=STREAM), 404, "unknown_job")


def test_head_of_a_stream_ends(api: Api) -> None:
    """HEAD answers what GET would begin with, though the stream of an open job never ends by itself."""
    answer = api.client.head(f"/v1/jobs/{api.ordered()}/events", headers=STREAM)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_an_idle_stream_beats(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens comments keep the connection open; later events follow as ever."""
    monkeypatch.setattr(events, "_HEARTBEAT_S", 0.3)
    job_id = api.ordered()

    async def listen() -> list[bytes]:
        told = []
        async for text in events._stream(api.services, job_id, 1):
            told.append(text)
            if len(told) == 3:
                end(api.registry, job_id)
        return told

    *beats, last = asyncio.run(asyncio.wait_for(listen(), 30))
    assert len(beats) >= 3
    assert all(text.startswith(b":") and text.endswith(b"\n\n") for text in beats)
    assert last.startswith(b"event: status\ndata: {")
    assert last.endswith(b"\nid: 2\n\n")


def test_one_loop_asks_for_all(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 that wait for 600 jobs and one are all answered; its events are read once for all its listeners."""
    job_id = api.ordered()
    others = [add_job(api.registry) for _ in range(600)]
    asked: list[str] = []
    after = Events.after

    def counted(self: Events, job: str, number: int, *, limit: int) -> Any:
        asked.append(job)
        return after(self, job, number, limit=limit)

    monkeypatch.setattr(Events, "after", counted)

    async def to_the_end(long_poll: LongPoll) -> list[int]:
        """The numbers of all events after the first; the job's end may be seen a look later than its last event."""
        numbers: list[int] = []
        ended = False
        while not ended:
            update = await long_poll.for_events(job_id, 1 + len(numbers), 60)
            numbers += [event.number for event in update.events]
            ended = update.ended
        return numbers

    async def wait() -> tuple[list[list[int]], list[bool]]:
        long_poll = LongPoll(api.registry)
        polls = [asyncio.create_task(long_poll.for_final(other, 60)) for other in others]
        listeners = [asyncio.create_task(to_the_end(long_poll)) for _ in range(600)]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in (*polls, *listeners))
        await asyncio.to_thread(end, api.registry, job_id)
        news = await asyncio.gather(*listeners)
        for other in others[:2]:
            await asyncio.to_thread(end, api.registry, other)
        await asyncio.gather(*polls[:2])
        open_still = [task.done() for task in polls[2:]]
        long_poll.close()
        await asyncio.gather(*polls)
        return news, open_still

    news, open_still = asyncio.run(asyncio.wait_for(wait(), 120))
    assert news == [[2]] * 600
    assert not any(open_still)
    assert asked == [job_id]


def test_a_stream_goes_on_at_another_process(tmp_path: Path) -> None:
    """A client whose API process was killed goes on at another one, misses nothing and hears nothing twice."""
    with place(tmp_path / "data") as where, live(where, number=2) as (first, second):
        job_id, registry = order(first.url), Registry.open(ServiceSettings(**where))
        told: list[Json] = []
        with pytest.raises(httpx.TransportError), listening(first.url, job_id) as heard:
            told.append(following(heard))
            add(registry, job_id, 0.1, 0.2)
            told += [following(heard), following(heard)]
            first.kill()
            following(heard)
        add(registry, job_id, 0.3)
        with (
            listening(second.url, job_id, last=told[-1]["id"]) as heard,
            listening(second.url, job_id, last=99) as beyond,
        ):
            told.append(following(heard))
            end(registry, job_id)
            told += heard
            assert list(beyond) == [], "a number that is not there yet waits for the end"
        registry.close()
    assert [event["id"] for event in told] == [1, 2, 3, 4, 5]
    assert [event["data"] for event in told[1:4]] == [{"fraction": f / 10} for f in (1, 2, 3)]
    assert told[4]["data"] == {"status": "cancelled"}


SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
WEBHOOK = {"url": "https://example.org/hook", "secret": SECRET}


def cancelled(api: Api, **options: Any) -> str:
    """The id of a job that has ended."""
    job = api.ordered(**options)
    api.post(f"/v1/jobs/{job}/cancel")
    return job


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
    assert deliveries(api, cancelled(api)) == {"data": [], "has_more": False, "next": None}
    job = cancelled(api, webhook=WEBHOOK)
    (message,) = deliveries(api, job)["data"]
    assert (message["job_id"], message["type"], message["url"]) == (job, "job.cancelled", WEBHOOK["url"])
    assert (message["status"], message["attempts"], message["delivered_at"]) == ("pending", [], None)
    assert abs(datetime.fromisoformat(message["next_attempt_at"]) - datetime.now(UTC)) < timedelta(minutes=1)


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
        ids = api.order()
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
