"""Creations that come at the same moment: one transaction for many of them, and each its own answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from service.registry.errors import Unavailable
from service.registry.unit_of_work import UnitOfWork
from tests.helpers.api import Api

Json = dict[str, Any]


def at_once(api: Api, requests: list[Json]) -> list[httpx.Response]:
    """POST all these orders at the same moment."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(api.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            return await asyncio.gather(*(client.post("/v1/jobs", **request) for request in requests))

    return asyncio.run(ask())


def order(api: Api) -> Json:
    """The body of a job."""
    model, dataset = api.post("/v1/models", content=b"m")["id"], api.post("/v1/datasets", content=b"d")["id"]
    return {"model_id": model, "dataset_id": dataset}


@pytest.fixture
def written(api: Api, monkeypatch: pytest.MonkeyPatch) -> Counter[UnitOfWork]:
    """The transactions in which something was written, each with the number of its statements."""
    statements: Counter[UnitOfWork] = Counter()
    write = api.registry.write

    @contextmanager
    def counted() -> Iterator[UnitOfWork]:
        with write() as unit:
            event.listen(unit.session.connection(), "before_cursor_execute", lambda *_: statements.update([unit]))
            yield unit

    monkeypatch.setattr(api.registry, "write", counted)
    return statements


def test_many_share_a_transaction(api: Api, written: Counter[UnitOfWork]) -> None:
    """Of 64 orders at once each makes its job with its own first event, in far fewer transactions than orders.

    A transaction has no more statements for many orders than for one: two records, a turn, a time, the workers, and
    four tables.
    """
    body = order(api)
    written.clear()
    answers = at_once(api, [{"json": {**body, "metadata": {"n": str(number)}}} for number in range(64)])
    assert {answer.status_code for answer in answers} == {202}
    assert [answer.json()["metadata"]["n"] for answer in answers] == [str(number) for number in range(64)]
    ids = {answer.json()["id"] for answer in answers}
    assert (len(ids), len(written) < 32) == (64, True)
    assert 4 < max(written.values()) <= 10
    with api.registry.read() as unit:
        assert unit.events.newest(ids) == dict.fromkeys(ids, 1)
    assert all(answer.headers["location"].endswith(answer.json()["id"]) for answer in answers)


def test_one_that_is_refused_harms_no_other(api: Api) -> None:
    """Bad orders among good ones are refused for their own reasons; every good one makes exactly one job."""
    body = order(api)
    requests = [{"json": body if number % 5 else {**body, "model_id": f"mdl_{number}"}} for number in range(40)]
    answers = at_once(api, requests)
    assert [answer.status_code for answer in answers] == [202 if number % 5 else 422 for number in range(40)]
    assert all(f"mdl_{number}'" in answers[number].json()["detail"] for number in range(0, 40, 5))
    listed = api.client.get("/v1/jobs?limit=1000").json()["data"]
    assert {job["id"] for job in listed} == {answer.json()["id"] for answer in answers if answer.status_code == 202}


def test_one_key_among_many(api: Api) -> None:
    """Orders with one key that share a transaction make one job; with other content the key is refused."""
    body = order(api)
    keyed = {"headers": {"Idempotency-Key": "k"}}
    answers = at_once(api, [{"json": body, **keyed}] * 20)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    mixed = at_once(api, [{"json": {**body, "seed": number % 2}, **keyed} for number in range(20)])
    assert [answer.status_code for answer in mixed] == [422 if number % 2 else 202 for number in range(20)]
    assert len(api.client.get("/v1/jobs").json()["data"]) == 1


def test_a_database_that_is_away_is_told_to_all(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be written requests are answered at once, with when to come again; afterwards all is well."""
    body = order(api)

    def away() -> AbstractContextManager[UnitOfWork]:
        raise Unavailable("database_unavailable", "the database cannot be reached; try again shortly")

    with monkeypatch.context() as patched:
        patched.setattr(api.registry, "write", away)
        answers = at_once(api, [{"json": body}] * 10)
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "database_unavailable")}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    assert at_once(api, [{"json": body}])[0].status_code == 202
    assert len(api.client.get("/v1/jobs").json()["data"]) == 1
