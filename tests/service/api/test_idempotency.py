"""One key, one record: retries beside a request, after it, after its end without an answer, at any API process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from service.api.plumbing import idempotency, request_bodies
from service.registry import tables
from service.registry.database import database_now
from service.registry.errors import KeyInFlight, KeyReused, Unavailable
from service.registry.registry import Registry, UnitOfWork
from service.registry.settings import ServiceSettings
from tests.helpers.api import Api, Json
from tests.helpers.backends import place
from tests.helpers.live_api import LiveApi, SlowUpload, live
from tests.helpers.problems import problem
from tests.helpers.processes import until

CONTENT = b"0123456789" * 10
KEY = {"Idempotency-Key": "k"}
SCORES = b"not,scores\n1,2\n"


def requests(api: Api) -> dict[str, tuple[str, Json, Json]]:
    """Every POST that creates: path, a request, and one with other content."""
    model, dataset = api.uploaded()
    job = {"model_id": model, "dataset_id": dataset}
    batch = {"model": model, "dataset_id": dataset}
    parts = {"model": ("m", b"m"), "dataset": ("d", b"d")}
    return {
        "models": ("/v1/models", {"content": CONTENT}, {"content": b"x"}),
        "datasets": ("/v1/datasets", {"content": CONTENT}, {"content": CONTENT, "params": {"name": "x"}}),
        "uploads": ("/v1/uploads", {"json": {"bytes": 5}}, {"json": {"bytes": 6}}),
        "jobs": ("/v1/jobs", {"json": job}, {"json": {**job, "seed": 1}}),
        "jobs with files": ("/v1/jobs", {"files": parts}, {"files": {**parts, "dataset": ("d", b"x")}}),
        "batches": ("/v1/batches", {"json": batch}, {"json": {**batch, "top_k": 2}}),
        "calibrators": ("/v1/calibrators?wait=0", {"content": CONTENT}, {"content": b"x"}),
    }


KINDS = ["models", "datasets", "uploads", "jobs", "jobs with files", "batches", "calibrators"]


def stored(api: Api, kind: str) -> int:
    """How many records of this kind there are."""
    if kind == "uploads":
        return len(list(api.registry.resumable_uploads.folder.iterdir()))
    return len(api.client.get(f"/v1/{kind.split()[0]}").json()["data"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_creation_is_answered_once(api: Api, kind: str) -> None:
    """A repeated creation has the first status, body and `Location`; other content is 422; one record is made."""
    path, same, other = requests(api)[kind]
    before = stored(api, kind)
    first, again = (api.client.post(path, headers=KEY, **same) for _ in range(2))
    assert first.status_code in (201, 202), first.text
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert [answer.headers.get("idempotent-replayed") for answer in (first, again)] == [None, "true"]
    told = ("location", "retry-after", "upload-offset")
    assert [again.headers.get(name) for name in told] == [first.headers.get(name) for name in told]
    assert ("retry-after" in first.headers) == (first.status_code == 202)
    problem(api.client.post(path, headers=KEY, **other), 422, "idempotency_key_reused")
    assert stored(api, kind) == before + 1


def test_what_a_key_stands_for(api: Api) -> None:
    """One kind of record, and content: defaults spelt out are no other content. An empty key is none."""
    made = requests(api)
    (path, job, _), (other, batch, _) = made["jobs"], made["batches"]
    first = api.client.post(path, headers=KEY, **job)
    again = api.client.post(path, headers=KEY, json={**job["json"], "method": "auto", "seed": 0})
    assert (first.status_code, again.status_code, again.json()) == (202, 202, first.json())
    assert api.client.post(other, headers=KEY, **batch).status_code == 202
    path, sent, _ = made["jobs with files"]
    files, form = sent["files"], {"Idempotency-Key": "form"}
    assert api.client.post(path, headers=form, **sent).status_code == 202
    for change in ({"job": (None, '{"seed": 1}')}, {"model": ("m", b"x")}):
        problem(api.client.post(path, headers=form, files={**files, **change}), 422, "idempotency_key_reused")
    assert api.client.post(path, headers={"Idempotency-Key": ""}, **job).status_code == 422


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_creation_leaves_the_key_free(api: Api, kind: str) -> None:
    """A request that is refused has used up nothing: mended, it is carried out under the same key."""
    path, good, _ = requests(api)[kind]
    bad = {"files": {"model": ("m", b"m")}} if "files" in good else {"content": b""}
    problem(api.client.post(path, headers=KEY, **bad), 422)
    assert api.client.post(path, headers=KEY, **good).status_code in (201, 202)


def at_once(api: Api, requests: list[Json]) -> list[httpx.Response]:
    """POST all these orders at the same moment."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(api.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            return await asyncio.gather(*(client.post("/v1/jobs", **request) for request in requests))

    return asyncio.run(ask())


def test_one_key_among_many(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with one key at once make one job; others are refused, and learn when to come if no database is."""
    model, dataset = api.uploaded()
    body, keyed = {"model_id": model, "dataset_id": dataset}, {"headers": KEY}

    def away() -> AbstractContextManager[UnitOfWork]:
        raise Unavailable("database_unavailable", "the database cannot be reached; try again shortly")

    with monkeypatch.context() as patched:
        patched.setattr(api.registry, "write", away)
        answers = at_once(api, [{"json": body, **keyed}] * 10)
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "database_unavailable")}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    answers = at_once(api, [{"json": body, **keyed}] * 20)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    mixed = at_once(api, [{"json": {**body, "seed": number % 2}, **keyed} for number in range(20)])
    assert [answer.status_code for answer in mixed] == [422 if number % 2 else 202 for number in range(20)]
    assert len(api.client.get("/v1/jobs").json()["data"]) == 1


def test_a_key_is_kept_for_a_day(api: Api) -> None:
    """After 24 hours a key is free again, and what was kept is forgotten."""
    first = api.client.post("/v1/uploads", json={"bytes": 5}, headers=KEY).json()
    for hours, kept in ((23.9, True), (24.1, False)):
        with api.registry.write() as unit:
            row = unit.session.get_one(tables.IdempotencyKey, "uploads:k")
            row.created_at = database_now(unit.session) - timedelta(hours=hours)
        assert (api.client.post("/v1/uploads", json={"bytes": 5}, headers=KEY).json() == first) is kept
    with api.registry.write() as unit:
        row = unit.session.get_one(tables.IdempotencyKey, "uploads:k")
        assert row.answer != "", "the new answer is kept in its place"
        unit.keys.forget_old()
        assert unit.keys.current("uploads:k") is not None
        row.created_at = database_now(unit.session) - timedelta(hours=25)
        unit.session.flush()
        unit.keys.forget_old()
        unit.session.expire_all()
        assert unit.keys.current("uploads:k") is None


def test_a_reservation_holds_others_off(registry: Registry) -> None:
    """Until it is answered, released or expired no other request gets the key; its holder may renew it."""
    with registry.write() as unit:
        unit.keys.reserve("k", "a", seconds=60)
        unit.keys.renew("k", "b", seconds=0)
        unit.keys.release("k", "b")
        for attempt in (lambda: unit.keys.reserve("k", "b", seconds=60), lambda: unit.keys.answer_of("k", "content")):
            with pytest.raises(KeyInFlight):
                attempt()
        assert unit.keys.answer_of("k", "content", holder="a") is None
        unit.keys.release("k", "a")
    with registry.write() as unit:
        unit.keys.reserve("k", "b", seconds=60)
    with registry.write() as unit:
        unit.keys.keep("k", "content", "answer")
    with registry.write() as unit:
        unit.keys.release("k", "b")
        unit.keys.reserve("k", "c", seconds=60)
        assert unit.keys.answer_of("k", "content", holder="c") == "answer"
        with pytest.raises(KeyReused):
            unit.keys.answer_of("k", "other", holder="c")


def test_a_lost_reservation_makes_no_second_record(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request so slow that its reservation ended, and a retry came through, is answered with the retry's record."""
    monkeypatch.setattr(idempotency, "_HELD_S", 0.0)
    retried: list[httpx.Response] = []

    async def slow(client: httpx.AsyncClient) -> AsyncIterator[bytes]:
        yield CONTENT[:50]
        retried.append(await client.post("/v1/datasets", content=CONTENT, headers=KEY))
        yield CONTENT[50:]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(api.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/datasets", content=slow(client), headers=KEY)

    first = asyncio.run(ask())
    assert (first.status_code, retried[0].status_code) == (201, 201)
    assert first.content == retried[0].content
    assert stored(api, "datasets") == 1


def test_a_silent_client_gives_the_key_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that died without a word holds its key for the server's patience only."""
    monkeypatch.setattr(request_bodies, "BODY_TIMEOUT_S", 0.3)

    async def body() -> AsyncIterator[bytes]:
        yield CONTENT[:7]
        await asyncio.sleep(60)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(api.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/datasets", content=body(), headers=KEY)

    problem(asyncio.run(ask()), 408, "body_stalled")
    assert api.client.post("/v1/datasets", content=CONTENT, headers=KEY).status_code == 201


class Pair:
    """Two API processes on the same records, and a look into these."""

    def __init__(self, first: LiveApi, second: LiveApi, registry: Registry) -> None:
        self.first, self.second, self._registry = first, second, registry

    def is_held(self) -> bool:
        """True where a request that still runs has reserved the key."""
        with self._registry.read() as unit:
            row = unit.session.get(tables.IdempotencyKey, "datasets:k")
            return row is not None and not row.answer

    def begin(self) -> SlowUpload:
        """An upload of which a part has arrived at the first process."""
        slow = SlowUpload(self.first.port, CONTENT, key="k")
        slow.send(10)
        until(self.is_held, what="the key is held")
        return slow


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two API processes and their records."""
    with place(tmp_path / "data") as where, live(where, number=2) as (first, second):
        registry = Registry.open(ServiceSettings(**where))
        yield Pair(first, second, registry)
        registry.close()


def retry(api: LiveApi) -> httpx.Response:
    """Send the request again, all at once."""
    return httpx.post(f"{api.url}/v1/datasets?name=slow", content=CONTENT, headers=KEY, timeout=60)


@pytest.mark.slow
def test_a_retry_beside_a_slow_upload_is_409_anywhere(pair: Pair) -> None:
    """While the first request still sends, a retry at any process is asked to wait; later both have one answer."""
    slow = pair.begin()
    for api in (pair.first, pair.second):
        answer = retry(api)
        problem(answer, 409, "idempotency_key_in_flight")
        assert int(answer.headers["retry-after"]) > 0
    status, record = slow.finish()
    again = retry(pair.second)
    assert (status, again.status_code, again.json()) == (201, 201, record)
    assert len(httpx.get(f"{pair.first.url}/v1/datasets").json()["data"]) == 1


@pytest.mark.slow
def test_a_client_that_goes_away_frees_its_key(pair: Pair) -> None:
    """A broken upload leaves the key to the next attempt, at once."""
    pair.begin().go_away()
    until(lambda: not pair.is_held(), what="the key is free")
    assert retry(pair.second).status_code == 201


@pytest.mark.slow
def test_a_held_key_outlives_its_first_term_and_not_its_process(pair: Pair) -> None:
    """A reservation is renewed while its upload goes on, and ends soon after its process was killed."""
    slow = pair.begin()
    time.sleep(1.3 * idempotency._HELD_S)
    assert retry(pair.second).status_code == 409
    pair.first.kill()
    assert retry(pair.second).status_code == 409
    until(lambda: retry(pair.second).status_code == 201, what="the key is free")
    slow.go_away()
